"""Exceptions of the stores."""

from __future__ import annotations


class StoreUnusable(Exception):
    """Failure to open a store. The message is a sentence for the operator."""


class CorruptRecord(Exception):
    """Stored record that is missing or fails its checksum; ``key`` is its key in the engine."""

    def __init__(self, key: bytes, what: str) -> None:
        super().__init__(f"{what}: key {key!r}")
        self.key = key
