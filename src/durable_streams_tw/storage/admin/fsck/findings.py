"""Findings of a check, and the kinds of flaws."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from durable_streams_tw.storage.errors import CorruptRecord


class Flaw(Enum):
    """Kinds of flaws. Their names are output of `check` for programs, and never change."""

    UNREADABLE = "the store cannot be read"
    FORMAT = "the format record is missing or invalid"
    WAL = "the write-ahead log is damaged"
    STRANGE_KEY = "a key is not of a known kind"
    CORRUPT_RECORD = "a record fails its checksum or cannot be decoded"
    NEXT_ID = "the next id is already in use"
    PATH = "a path and a stream do not match"
    STREAM = "a stream's record is inconsistent"
    DATA = "bytes are missing or duplicated"
    MESSAGES = "the message boundaries of a record are wrong"
    DEADLINE = "the deadline index is wrong"
    GARBAGE = "an existing stream is marked for deletion"
    ORPHAN = "bytes or producers belong to no stream"
    FORK = "a fork and its source are inconsistent"
    SUBSCRIPTION = "a subscription, its links and its cursors are inconsistent"


class Finding(Struct, frozen=True):
    """One flaw: its kind, the key of the record, and a sentence."""

    flaw: Flaw
    key: bytes
    detail: str

    def as_json(self) -> dict[str, str]:
        """Return the finding as `check` prints it for programs."""
        return {
            "flaw": self.flaw.name,
            "meaning": self.flaw.value,
            "key": self.key.hex(),
            "detail": self.detail,
        }


def unreadable(corrupt: CorruptRecord) -> Finding:
    """Return the finding for a corrupt record."""
    return Finding(Flaw.CORRUPT_RECORD, corrupt.key, str(corrupt))
