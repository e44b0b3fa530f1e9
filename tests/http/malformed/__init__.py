"""Malformed and ambiguous requests, and the servers that parse them."""
