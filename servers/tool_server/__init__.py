"""The bundled MCP tool server: PubMed, web pages and Google over an offline corpus."""
