"""Tables of small records beside the streams: what subscriptions are made of.

A store keeps values by table and key and knows nothing of their meaning. Keys sort as bytes;
where a table's keys begin with a number, all that a number owns lies in one range and can be
let go with `Transaction.remove_owned`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import msgspec

from durable_streams_tw.protocol.subscriptions.state import (
    Cursor,
    ExplicitLink,
    FanOut,
    Subscription,
)
from durable_streams_tw.storage.api import RecordTable
from durable_streams_tw.storage.engine.codec import unseal
from durable_streams_tw.storage.engine.kv import Buffer, View
from durable_streams_tw.storage.errors import CorruptRecord

T = TypeVar("T")

_LONG_NAME: Final = 440
_LONG_NAME_PREFIX: Final = 400


class Table(Generic[T]):
    """A kind of record: its prefix among all keys, and its values.

    ``watched`` tables' changes are told to whoever watches the store.
    """

    def __init__(self, prefix: bytes, kind: type[T], watched: bool = False) -> None:
        self.prefix = prefix
        self.watched = watched
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(kind)

    def pack(self, value: T) -> bytes:
        """The payload of a value."""
        return self._encoder.encode(value)

    def unpack(self, key: bytes, value: Buffer) -> T:
        """What stands under a whole key, prefix included. Raises `CorruptRecord`."""
        payload = unseal(key, value)
        try:
            return self._decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptRecord(key, f"a record cannot be read ({error})") from None


SUBSCRIPTIONS: Final = Table(b"u", Subscription, watched=True)
"""By id."""

LINKS: Final = Table(b"e", ExplicitLink)
"""Explicit links, by number and name of the stream."""

CURSORS: Final = Table(b"k", Cursor)
"""Cursors of streams with pending work, by number and name of the stream."""

FAN_OUTS: Final = Table(b"w", FanOut)
"""Events of streams that are still to reach some subscriptions, by the name of the stream."""

OWNED: Final = (LINKS, CURSORS)
"""The tables whose keys begin with the number of a subscription."""


def subscription_key(name: str) -> bytes:
    """The key of a subscription's id."""
    return name.encode("utf-8")


def stream_key(number: int, path: str) -> bytes:
    """Return the key of a stream among those of a subscription."""
    return number.to_bytes(8, "big") + name_key(path)


def name_key(path: str) -> bytes:
    """Return the key of a stream's name: a prefix and a hash where LMDB's keys are shorter."""
    raw = path.encode("utf-8")
    if len(raw) > _LONG_NAME:
        raw = raw[:_LONG_NAME_PREFIX] + b"\x00" + hashlib.sha256(raw).digest()
    return raw


def owned_range(number: int) -> tuple[bytes, bytes]:
    """Where the keys of a subscription's streams lie: first, and behind."""
    return number.to_bytes(8, "big"), (number + 1).to_bytes(8, "big")


def load(view: View, table: RecordTable[T], key: bytes) -> T | None:
    """The record of a key. Raises `CorruptRecord`."""
    whole = table.prefix + key
    value = view.get(whole)
    return None if value is None else table.unpack(whole, value)


def scan(
    view: View, table: RecordTable[T], first: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, T]]:
    """Records with ``first <= key < stop`` in order. Raises `CorruptRecord`."""
    for key, record in scan_with_errors(view, table, first, stop):
        if isinstance(record, CorruptRecord):
            raise record
        yield key, record


def scan_with_errors(
    view: View, table: RecordTable[T], first: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, T | CorruptRecord]]:
    """The same, with what is wrong in place of what cannot be read."""
    prefix = table.prefix
    behind = bytes((prefix[0] + 1,)) if stop is None else prefix + stop
    for raw, value in view.scan(prefix + first, behind):
        whole = bytes(raw)
        try:
            yield whole[1:], table.unpack(whole, value)
        except CorruptRecord as corrupt:
            yield whole[1:], corrupt
