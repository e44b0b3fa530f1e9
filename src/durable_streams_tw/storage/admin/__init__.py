"""Tools for a data directory: lock, backup, restore, compact, stats."""
