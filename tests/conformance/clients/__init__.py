"""Scripts that run the public clients, unmodified, against a server."""
