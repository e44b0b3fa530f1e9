"""Readers that wait: long-polls and event streams, woken by commits."""
