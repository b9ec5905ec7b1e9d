"""Everything that turns a graph's state into something written."""
