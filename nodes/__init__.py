"""The four steps of the loop, a file each, with the prompt and how it is kept within the context."""
