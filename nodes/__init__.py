"""The four steps of the loop, one file each: reason, parse_tool, execute_mcp, finalize."""
