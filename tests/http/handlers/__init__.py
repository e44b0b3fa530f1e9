"""Tests of `http.handlers`."""
