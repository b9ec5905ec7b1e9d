"""The two services the graph talks to, each client beside its bundled server."""
