"""Tests of `http.http1`."""
