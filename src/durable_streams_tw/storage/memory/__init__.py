"""Memory store."""
