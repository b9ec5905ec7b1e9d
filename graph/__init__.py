"""One question: its state, its bounds, its graph, and its checkpoints."""
