"""Tables of small records beside the streams: what subscriptions are made of.

A store keeps values by table and key and knows nothing of their meaning. Keys sort as bytes;
where a table's keys begin with a number, all that a number owns lies in one range and can be
let go with `Transaction.forget_owner`.
"""

from __future__ import annotations

import hashlib
from typing import Final, Generic, TypeVar

import msgspec

from durable_streams_tw.protocol.subscriptions.state import Cursor, Named, Subscription
from durable_streams_tw.storage.engine.codec import CorruptRecord, unseal
from durable_streams_tw.storage.engine.kv import Buffer

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

NAMED: Final = Table(b"e", Named)
"""Explicit links, by number and name of the stream."""

CURSORS: Final = Table(b"k", Cursor)
"""Cursors of streams with pending work, by number and name of the stream."""

OWNED: Final = (NAMED, CURSORS)
"""The tables whose keys begin with the number of a subscription."""


def subscription_key(name: str) -> bytes:
    """The key of a subscription's id."""
    return name.encode("utf-8")


def stream_key(number: int, path: str) -> bytes:
    """The key of a stream among those of a subscription; longer than LMDB's keys, a prefix and
    a hash of it."""
    raw = path.encode("utf-8")
    if len(raw) > _LONG_NAME:
        raw = raw[:_LONG_NAME_PREFIX] + b"\x00" + hashlib.sha256(raw).digest()
    return number.to_bytes(8, "big") + raw


def owned_range(number: int) -> tuple[bytes, bytes]:
    """Where the keys of a subscription's streams lie: first, and behind."""
    return number.to_bytes(8, "big"), (number + 1).to_bytes(8, "big")
