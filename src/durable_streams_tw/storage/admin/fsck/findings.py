"""What can be wrong with a store, as values."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from durable_streams_tw.storage.errors import CorruptRecord


class Flaw(Enum):
    """The ways in which a store can be wrong."""

    UNREADABLE = "the map cannot be read"
    FORMAT = "it is not known what wrote the store"
    JOURNAL = "the journal is damaged"
    STRANGE_KEY = "a key is of no known kind"
    CORRUPT_RECORD = "a record fails its checksum or cannot be read"
    NEXT_ID = "ids would be given twice"
    PATH = "a path and a stream do not belong together"
    STREAM = "a stream's record contradicts itself"
    DATA = "bytes are missing or doubled"
    MESSAGES = "a record does not hold whole messages as it says"
    DEADLINE = "the deadline index is wrong"
    GARBAGE = "a stream that is there is to be freed"
    ORPHAN = "bytes or producers belong to no stream"
    FORK = "a fork and its source do not agree"
    SUBSCRIPTION = "a subscription, its links and its cursors do not agree"


class Finding(Struct, frozen=True):
    """One flaw: where (a key of the store), and what in a sentence."""

    flaw: Flaw
    key: bytes
    detail: str


def unreadable(corrupt: CorruptRecord) -> Finding:
    """The finding of a record that fails its checksum or cannot be decoded."""
    return Finding(Flaw.CORRUPT_RECORD, corrupt.key, str(corrupt))
