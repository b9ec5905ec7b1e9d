"""What we serve: the tools, the demo model, and their commands."""
