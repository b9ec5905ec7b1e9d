"""The four steps of the loop, a file each, and what the model is told."""
