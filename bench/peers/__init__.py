"""Installation of peers."""
