"""Tests of the rules and codecs of the protocol: pure values, no reactor, no store."""
