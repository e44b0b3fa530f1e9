"""Tests of `protocol.streams`."""
