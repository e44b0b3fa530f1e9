"""Benchmarks of this server against its peers (`compare`) and of single parts (`group_commit`)."""
