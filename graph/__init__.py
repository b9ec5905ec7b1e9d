"""One question as a graph, and many of them as a batch."""
