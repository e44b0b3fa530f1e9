"""Tests of `http.twisted_web`."""
