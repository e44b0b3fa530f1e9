"""A server for the Durable Streams protocol, on Twisted."""

__version__ = "0.1.0"
