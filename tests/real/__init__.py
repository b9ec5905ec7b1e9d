"""Against parts that others wrote: llama.cpp, fastmcp, the MCP SDK's server, the trainers. `make real` runs it."""
