"""Suites of tests that every store must pass."""
