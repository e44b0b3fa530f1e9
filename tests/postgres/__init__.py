"""Tests of the PostgreSQL store and of several nodes, with real PostgreSQL servers."""
