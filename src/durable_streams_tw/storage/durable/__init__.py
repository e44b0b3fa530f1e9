"""Durable store: committer, transactions, caches, readers."""
