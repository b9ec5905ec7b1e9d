"""One question: its state, its limits, its graph, and its checkpoints."""
