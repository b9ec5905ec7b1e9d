"""The bundled MCP tool server: PubMed, web pages and Google live or from a corpus."""
