"""Requests to other servers: name resolution, concurrency limits and cancellation."""
