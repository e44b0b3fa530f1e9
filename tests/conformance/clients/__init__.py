"""The public clients, unchanged, against a running service."""
