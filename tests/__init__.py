"""Sentences about what the product does, proved over real sockets, files and processes."""
