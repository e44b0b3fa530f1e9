"""Tables of records, and access to them.

A store keeps values of subscription tables by table and key and does not interpret them. Keys sort
as bytes. In `OWNED` tables they begin with the number of a subscription, so all its records lie in
one key range, which `Transaction.remove_owned` deletes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import msgspec

from durable_streams_tw.protocol.streams.producers import ProducerState
from durable_streams_tw.protocol.subscriptions.state import (
    Cursor,
    ExplicitLink,
    FanOut,
    Subscription,
)
from durable_streams_tw.storage.api import RecordTable
from durable_streams_tw.storage.engine.codec import StreamRecord, unseal
from durable_streams_tw.storage.engine.kv import Buffer, View
from durable_streams_tw.storage.errors import CorruptRecord

T = TypeVar("T")

_MAX_NAME: Final = 440
_HASHED_NAME_PREFIX: Final = 400

_encoder: Final = msgspec.msgpack.Encoder()


class StagedBody(msgspec.Struct, frozen=True, array_like=True):
    """Data records from ``start`` that do not belong to the stream yet.

    ``stream_id`` may be that of a stream that does not exist yet. Without the command that writes
    them they are to be deleted.
    """

    path: str
    stream_id: int
    start: int


class Table(Generic[T]):
    """Key prefix and codec of one kind of record.

    Listeners of the store are notified of changes to ``watched`` tables.
    """

    def __init__(self, prefix: bytes, kind: type[T], watched: bool = False) -> None:
        self.prefix = prefix
        self.watched = watched
        self._decoder = msgspec.msgpack.Decoder(kind)

    def pack(self, value: T) -> bytes:
        """Encode a record."""
        return _encoder.encode(value)

    def unpack(self, key: bytes, value: Buffer) -> T:
        """Decode the sealed value of a full key (prefix included). Raises `CorruptRecord`."""
        return self.decode(key, unseal(key, value))

    def decode(self, key: bytes, payload: Buffer) -> T:
        """Decode a record. Raises `CorruptRecord` with the key."""
        try:
            return self._decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptRecord(key, f"a record cannot be decoded ({error})") from None


STREAMS: Final = Table(b"s", StreamRecord)
"""Streams by id."""

PRODUCERS: Final = Table(b"q", ProducerState)
"""States of producers, by `codec.producer_key`."""

SUBSCRIPTIONS: Final = Table(b"u", Subscription, watched=True)
"""Subscriptions by id."""

LINKS: Final = Table(b"e", ExplicitLink)
"""Explicit links, by number of the subscription and name of the stream."""

CURSORS: Final = Table(b"k", Cursor)
"""Cursors of streams with pending work, by number of the subscription and name of the stream."""

STAGED: Final = Table(b"t", StagedBody)
"""Large bodies that are being written, by the name of their stream."""

FAN_OUTS: Final = Table(b"w", FanOut)
"""Events of streams that some subscriptions have not received yet, by name of the stream."""

OWNED: Final = (LINKS, CURSORS)
"""Tables whose keys begin with the number of a subscription."""


def subscription_key(name: str) -> bytes:
    """Return the key of a subscription id in `SUBSCRIPTIONS`."""
    return name.encode("utf-8")


def owned_key(number: int, path: str) -> bytes:
    """Return the key of a stream in the `OWNED` tables of a subscription."""
    return number.to_bytes(8, "big") + name_key(path)


def name_key(path: str) -> bytes:
    """Return the key of a stream name. If it is too long for LMDB, use a prefix and a hash."""
    raw = path.encode("utf-8")
    if len(raw) > _MAX_NAME:
        raw = raw[:_HASHED_NAME_PREFIX] + b"\x00" + hashlib.sha256(raw).digest()
    return raw


def owned_range(number: int) -> tuple[bytes, bytes]:
    """Return the key range (first, stop) of a subscription in the `OWNED` tables."""
    return number.to_bytes(8, "big"), (number + 1).to_bytes(8, "big")


def load(view: View, table: RecordTable[T], key: bytes) -> T | None:
    """Return the record of a key, or None. Raises `CorruptRecord`."""
    whole = table.prefix + key
    value = view.get(whole)
    return None if value is None else table.unpack(whole, value)


def scan(
    view: View, table: RecordTable[T], first: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, T]]:
    """Yield the records with ``first <= key < stop``, in order. Raises `CorruptRecord`.

    With ``stop`` None, yield all from ``first`` on.
    """
    for key, record in scan_with_errors(view, table, first, stop):
        if isinstance(record, CorruptRecord):
            raise record
        yield key, record


def scan_with_errors(
    view: View, table: RecordTable[T], first: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, T | CorruptRecord]]:
    """Yield records like `scan`, with a `CorruptRecord` in place of each corrupt one."""
    prefix = table.prefix
    end = bytes((prefix[0] + 1,)) if stop is None else prefix + stop
    for raw, value in view.scan(prefix + first, end):
        whole = bytes(raw)
        try:
            yield whole[1:], table.unpack(whole, value)
        except CorruptRecord as corrupt:
            yield whole[1:], corrupt
