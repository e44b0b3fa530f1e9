"""Tests of `http.http2`."""
