"""Tests of subscriptions, outside the store."""
