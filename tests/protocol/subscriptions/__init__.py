"""Tests of `protocol.subscriptions`."""
