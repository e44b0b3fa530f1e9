"""Tests of the server: operations, doors, policies, the in-process API."""
