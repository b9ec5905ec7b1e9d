"""The four steps of the loop, a file each, and the prompt."""
