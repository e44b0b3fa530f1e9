"""Tests of `storage.admin`."""
