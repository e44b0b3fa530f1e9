"""Keys and record codecs of the durable store.

=======  =====================================  =======================================
prefix   rest of the key                        value (after a CRC-32)
=======  =====================================  =======================================
``m``    --                                     format of the store: `Meta`
``n``    --                                     next stream id
``j``    --                                     `CheckpointRecord`
``p``    path, up to 480 bytes                  stream id
``P``    440 bytes of a longer path, SHA-256    stream id, full path
``s``    stream id                              `StreamRecord`
``d``    stream id, position                    flags, stream bytes from that position
``q``    stream id, generation (not of the      `ProducerState`
         first), producer id (or SHA-256)
``x``    deadline (ms since the Unix epoch),    empty: when the sweep checks the stream
         stream id
``g``    stream id                              empty: ended stream with records to delete
``g``    stream id, generation                  empty: delete producers of older generations
``u``    subscription id                        `Subscription`
``e``    number, stream name (or hash)          `ExplicitLink` of a subscription
``k``    number, stream name (or hash)          `Cursor` of a stream with pending work
``t``    stream name (or hash)                  `StagedBody`: bytes beyond its tail
``w``    stream name (or hash)                  `FanOut`: subscriptions not yet notified
=======  =====================================  =======================================

Integers in keys have eight bytes, big-endian, so that keys sort numerically. LMDB 0.9 has no
checksums, so every non-empty value but `Meta` begins with a CRC-32 over its key and payload. The
meaning of a prefix never changes; a new layout gets a new prefix and a new format number.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from msgspec import Struct
from zlib_ng.zlib_ng import crc32

from durable_streams_tw.protocol.streams.producers import (
    FIRST_GENERATION,
    Generation,
)
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.engine.kv import Buffer
from durable_streams_tw.storage.errors import CorruptRecord

FORMAT: Final = 5
"""Number of the layout above. Stores with a greater number are refused. Format 1 had no
subscriptions, format 2 no write-ahead log, format 3 one generation of producers, format 4 no
fan-outs."""

KIND: Final = "durable-streams"
"""Value of `Meta.kind` that identifies stores of this program."""

META_KEY: Final = b"m"
NEXT_ID_KEY: Final = b"n"
CHECKPOINT_KEY: Final = b"j"
DEADLINES: Final = (b"x", b"y")
GARBAGE: Final = (b"g", b"h")
STREAMS: Final = (b"s", b"t")
PATHS: Final = ((b"p", b"q"), (b"P", b"Q"))

OWNED_PREFIXES: Final = frozenset((b"d", b"q", b"e", b"k"))
"""Prefixes that are followed by a stream id or the number of a subscription."""

STARTS_MID_MESSAGE: Final = 1
"""Flag of a data record whose first message begins in an earlier record."""

ENDS_MID_MESSAGE: Final = 2
"""Flag of a data record whose last message continues in the next record."""

# Bytes of checksum and flags.
_DATA_OVERHEAD: Final = 5

_MAX_ID: Final = 2**64 - 1
_MAX_PATH: Final = 480
_HASHED_PATH_PREFIX: Final = 440
_MAX_PRODUCER: Final = 128


class Meta(Struct, frozen=True):
    """Format, program version and creation time (ms since the Unix epoch) of a store."""

    format: int
    version: str
    created_at: int
    kind: str = KIND


class StreamRecord(Struct, frozen=True, array_like=True, gc=False):
    """State of a stream, and where the store finds its other records.

    ``indexed_at`` is the time of its key in `DEADLINES`, or None; ``last_start`` is the position of
    its last data record, None if it has no bytes of its own; ``producers`` is the current
    generation of its producers.
    """

    state: StreamState
    indexed_at: int | None = None
    last_start: int | None = None
    producers: Generation = FIRST_GENERATION


_meta: Final = msgspec.json.Decoder(Meta)


def seal(key: bytes, payload: bytes) -> bytes:
    """Return a record value: CRC-32 over key and payload, then the payload."""
    return crc32(payload, crc32(key)).to_bytes(4, "big") + payload


def unseal(key: bytes, value: Buffer) -> memoryview:
    """Check the checksum of a record value and return its payload. Raises `CorruptRecord`."""
    view = memoryview(value)
    payload = view[4:]
    if crc32(payload, crc32(key)) != int.from_bytes(view[:4], "big"):
        raise CorruptRecord(key, "a record fails its checksum")
    return payload


def pack_integer(number: int) -> bytes:
    """Encode an integer as eight bytes, big-endian."""
    return number.to_bytes(8, "big")


def unpack_integer(packed: Buffer) -> int:
    """Decode an integer from eight bytes, big-endian."""
    return int.from_bytes(packed, "big")


# -- keys -----------------------------------------------------------------------------


def path_key(path: str) -> bytes:
    """Return the key of a path. If it is too long for LMDB, use a prefix and a hash of it."""
    raw = path.encode("utf-8")
    if len(raw) <= _MAX_PATH:
        return b"p" + raw
    return b"P" + raw[:_HASHED_PATH_PREFIX] + hashlib.sha256(raw).digest()


def stream_key(stream_id: int) -> bytes:
    """Return the key of a stream's record."""
    return b"s" + stream_id.to_bytes(8, "big")


def data_key(stream_id: int, position: int) -> bytes:
    """Return the key of the data record that begins at a position."""
    return b"d" + stream_id.to_bytes(8, "big") + position.to_bytes(8, "big")


def producer_name(producer_id: str) -> bytes:
    """Return the part of a producer's key for its id, or for a hash of a long id."""
    raw = producer_id.encode("utf-8")
    return b"=" + raw if len(raw) <= _MAX_PRODUCER else b"#" + hashlib.sha256(raw).digest()


def producer_key(stream_id: int, generation: int, name: bytes) -> bytes:
    """Return the key of a producer's state in a stream.

    Keys of generation 0 sort first, and are those of formats up to 3.
    """
    if not generation:
        return b"q" + stream_id.to_bytes(8, "big") + name
    return b"q" + stream_id.to_bytes(8, "big") + b"@" + generation.to_bytes(8, "big") + name


def parse_producer_key(key: bytes) -> tuple[int, bytes]:
    """Return the generation and the producer name in a producer's key."""
    if key[9:10] != b"@":
        return 0, key[9:]
    return int.from_bytes(key[10:18], "big"), key[18:]


def deadline_key(deadline: int, stream_id: int) -> bytes:
    """Return the key by which the sweep finds a stream at a deadline (ms since the Unix epoch)."""
    return b"x" + deadline.to_bytes(8, "big") + stream_id.to_bytes(8, "big")


def garbage_key(stream_id: int) -> bytes:
    """Return the key that marks an ended stream's records for deletion."""
    return b"g" + stream_id.to_bytes(8, "big")


def old_producers_key(stream_id: int, generation: int) -> bytes:
    """Return the key that marks producers of generations before ``generation`` for deletion."""
    return garbage_key(stream_id) + generation.to_bytes(8, "big")


def garbage_ranges(key: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the key ranges that a key in `GARBAGE` marks for deletion."""
    stream_id = unpack_integer(key[1:9])
    if len(key) == len(garbage_key(stream_id)):
        # Its marks for old producers first: fsck reports them once the stream's own mark is gone.
        entries = key + b"\x00", _owned(GARBAGE[0], stream_id)[1]
        return (entries, *stream_ranges(stream_id), *subscription_ranges(stream_id))
    return ((b"q" + key[1:9], b"q" + key[1:9] + b"@" + key[9:17]),)


def stream_ranges(stream_id: int) -> tuple[tuple[bytes, bytes], ...]:
    """Return the key ranges of a stream's data records and producers."""
    return (_owned(b"d", stream_id), _owned(b"q", stream_id))


def subscription_ranges(number: int) -> tuple[tuple[bytes, bytes], ...]:
    """Return the key ranges of a subscription's links and cursors.

    Subscription numbers and stream ids come from one sequence, so they never collide.
    """
    return (_owned(b"e", number), _owned(b"k", number))


def _owned(prefix: bytes, number: int) -> tuple[bytes, bytes]:
    first = prefix + pack_integer(number)
    if number == _MAX_ID:
        return first, bytes((prefix[0] + 1,))
    return first, prefix + pack_integer(number + 1)


def listing_key(path: str) -> bytes:
    """Return the sort key of a path in listings.

    It is the path's bytes, or for a path too long for an LMDB key a prefix, 0xFF and a hash: the
    order of the stored keys. No path contains 0xFF, so a long path sorts after all short paths
    with the same prefix, and sort keys are unique.
    """
    raw = path.encode("utf-8")
    if len(raw) <= _MAX_PATH:
        return raw
    return raw[:_HASHED_PATH_PREFIX] + b"\xff" + hashlib.sha256(raw).digest()


def path_ranges(prefix: str, after: str = "") -> tuple[tuple[bytes, bytes], ...]:
    """Return the key ranges of the paths with a prefix that sort after ``after``.

    They may hold a few other paths. The order is that of `listing_key`.
    """
    raw, last = prefix.encode("utf-8"), after.encode("utf-8")
    short, long = PATHS
    # A long path sorts after every short path that is a prefix of it.
    least = long[0] + last[:_HASHED_PATH_PREFIX]
    if len(last) > _MAX_PATH:
        least = path_key(after) + b"\x00"
    return (
        _path_range(short, raw[:_MAX_PATH], short[0] + listing_key(after) + b"\x00"),
        _path_range(long, raw[:_HASHED_PATH_PREFIX], least),
    )


def listing_range(prefix: str) -> tuple[bytes, bytes]:
    """Return the range (first, stop) of `listing_key` values of the paths with a prefix."""
    raw = prefix.encode("utf-8")[:_HASHED_PATH_PREFIX]
    return raw, _prefix_end(raw) or b"\xff"


def _path_range(kind: tuple[bytes, bytes], raw: bytes, least: bytes) -> tuple[bytes, bytes]:
    return max(kind[0] + raw, least), kind[0] + _prefix_end(raw) if raw else kind[1]


def _prefix_end(raw: bytes) -> bytes:
    """Return the least bytes above all that begin with ``raw``, which is UTF-8: no 0xFF byte."""
    return raw[:-1] + bytes((raw[-1] + 1,)) if raw else b""


def is_short(key: bytes) -> bool:
    """Return whether a path's key contains the full path."""
    return key[:1] == PATHS[0][0]


def path_of(key: bytes, payload: Buffer) -> str:
    """Return the path of a path's record."""
    return bytes(payload[8:] or key[1:]).decode("utf-8")


def position_of(key: Buffer) -> int:
    """Return the position in a data record's key."""
    return int.from_bytes(key[9:17], "big")


# -- values -----------------------------------------------------------------------------


def pack_meta(meta: Meta) -> bytes:
    """Encode the value of `META_KEY` as plain JSON, which every later version can read."""
    return msgspec.json.encode(meta)


def unpack_meta(value: Buffer) -> Meta:
    """Decode the value of `META_KEY`. Raises `msgspec.MsgspecError`."""
    try:
        return _meta.decode(value)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None


def pack_path(path: str, stream_id: int) -> bytes:
    """Encode the payload of a path's record."""
    raw = path.encode("utf-8")
    return pack_integer(stream_id) + (raw if len(raw) > _MAX_PATH else b"")


def unpack_path(payload: Buffer) -> int:
    """Return the stream id in a path's record."""
    return int.from_bytes(payload[:8], "big")


def pack_data(key: bytes, flags: int, payload: bytes) -> bytes:
    """Encode the value of a data record, checksum included."""
    return seal(key, bytes((flags,)) + payload)


def extend_data(value: bytes, more: bytes) -> bytes:
    """Return the value of a data record with ``more`` bytes appended.

    The checksum continues the existing one, so that corrupt bytes still fail it.
    """
    check = crc32(more, int.from_bytes(value[:4], "big"))
    return b"".join((check.to_bytes(4, "big"), value[4:], more))


def data_size(value: Buffer) -> int:
    """Return the number of stream bytes in a data record."""
    return len(value) - _DATA_OVERHEAD


def unpack_data(key: bytes, value: Buffer) -> tuple[int, memoryview]:
    """Return flags and stream bytes of a data record. Raises `CorruptRecord`."""
    payload = unseal(key, value)
    if not payload:
        raise CorruptRecord(key, "a data record has no flags")
    return payload[0], payload[1:]
