"""Tests of `storage.postgres`."""
