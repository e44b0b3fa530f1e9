"""Tests of `storage.engine`."""
