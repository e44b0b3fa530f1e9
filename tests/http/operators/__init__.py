"""Tests of `http.operators`."""
