"""Tests of `storage.memory`."""
