"""Tests of the shared containers."""
