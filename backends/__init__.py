"""Clients: the model, the tools, and what both need to be asked safely."""
