"""HTTP/2 engine of the standalone service."""
