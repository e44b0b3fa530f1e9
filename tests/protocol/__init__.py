"""Tests of the protocol's rules and codecs: plain values, no reactor, no store."""
