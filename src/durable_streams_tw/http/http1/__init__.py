"""HTTP/1.1 engine of the standalone service."""
