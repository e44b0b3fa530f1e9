"""Tests of `live.sse`."""
