"""Tests of `storage.commands`."""
