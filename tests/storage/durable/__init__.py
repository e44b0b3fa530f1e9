"""Tests of `storage.durable`."""
