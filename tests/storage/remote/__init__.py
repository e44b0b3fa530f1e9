"""Tests of `storage.remote`."""
