"""A rule-based stand-in for a model behind an OpenAI-compatible server with the manners of vLLM: plainly a demo."""
