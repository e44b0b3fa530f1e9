"""Tests of `storage.shared`."""
