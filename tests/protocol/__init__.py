"""Tests of the protocol's pure functions, without a reactor and a store."""
