"""The graph in LangGraph Studio."""
