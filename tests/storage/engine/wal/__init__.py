"""Tests of `storage.engine.wal`."""
