"""Consistency check of a store: records, streams, logs, forks, subscriptions."""
