"""Keys and values of the durable store: one table of all keys, one codec pair a record.

=======  =====================================  =======================================
prefix   key behind it                          value (sealed: CRC-32 before it)
=======  =====================================  =======================================
``m``    --                                     what wrote this store: `Meta`
``n``    --                                     the next stream id
``j``    --                                     `CheckpointRecord`
``p``    path, up to 480 bytes                  stream id
``P``    440 bytes of a longer path, SHA-256    stream id, whole path
``s``    stream id                              `StreamRecord`
``d``    stream id, position                    flags, bytes from that position
``q``    stream id, generation but for the      `ProducerState`
         first, producer id (or SHA-256)
``x``    deadline (ms since 1970), stream id    nothing: when to look whether it expired
``g``    stream id                              nothing: ended, bytes still to be freed
``g``    stream id, generation                  nothing: producers of those before it to be freed
``u``    subscription id                        `Subscription`
``e``    its number, stream name (or hash)      `Named`: an explicit link
``k``    its number, stream name (or hash)      `Cursor` of a stream with pending work
``w``    stream name (or hash)                  `FanOut`: subscriptions still to be told
=======  =====================================  =======================================

Integers in keys are eight bytes, big-endian, so that keys sort as they do. LMDB 0.9 checks
no bytes, so every value that says something carries a CRC-32 over its key and itself.
Prefixes and layouts never change their meaning; a new one gets a new prefix and a new
format number.
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
    ProducerState,
)
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.engine.kv import Buffer
from durable_streams_tw.storage.errors import CorruptRecord

FORMAT: Final = 5
"""The layout above. A store of a greater number is refused. Format 1 had no subscriptions, format 2
no journal, format 3 one generation of producers, format 4 no fan-outs."""

KIND: Final = "durable-streams"
"""Whose stores these are."""

META_KEY: Final = b"m"
NEXT_ID_KEY: Final = b"n"
CHECKPOINT_KEY: Final = b"j"
DEADLINES: Final = (b"x", b"y")
GARBAGE: Final = (b"g", b"h")
STREAMS: Final = (b"s", b"t")
PATHS: Final = ((b"p", b"q"), (b"P", b"Q"))
SUBSCRIPTIONS: Final = (b"u", b"v")

OWNED_PREFIXES: Final = frozenset((b"d", b"q", b"e", b"k"))
"""The prefixes of keys that begin with the number of a stream or subscription."""

STARTS_MID_MESSAGE: Final = 1
"""Flag of a data record whose first message began in an earlier record."""

ENDS_MID_MESSAGE: Final = 2
"""Flag of a data record whose last message goes on in the next one."""

# Checksum and flags.
_BEFORE_DATA: Final = 5

_LARGEST_ID: Final = 2**64 - 1
_LONG_PATH: Final = 480
_LONG_PATH_PREFIX: Final = 440
_LONG_PRODUCER: Final = 128


class Meta(Struct, frozen=True):
    """Who wrote a store: its layout, the program's version, when (ms since 1970)."""

    format: int
    version: str
    created_at: int
    kind: str = KIND


class StreamRecord(Struct, frozen=True, array_like=True, gc=False):
    """A stream's state and what the store has to find again.

    ``indexed_at`` is the moment of its entry among the deadlines, None where it has none;
    ``last_start`` the position at which its last data record begins, None where it has no
    bytes of its own; ``producers`` the current generation of its producers.
    """

    state: StreamState
    indexed_at: int | None = None
    last_start: int | None = None
    producers: Generation = FIRST_GENERATION


_meta: Final = msgspec.json.Decoder(Meta)
_packer: Final = msgspec.msgpack.Encoder()
_stream: Final = msgspec.msgpack.Decoder(StreamRecord)
_producer: Final = msgspec.msgpack.Decoder(ProducerState)


def seal(key: bytes, payload: bytes) -> bytes:
    """A value: the checksum over key and payload, then the payload."""
    return crc32(payload, crc32(key)).to_bytes(4, "big") + payload


def unseal(key: bytes, value: Buffer) -> memoryview:
    """The payload of a value. Raises `CorruptRecord`."""
    view = memoryview(value)
    payload = view[4:]
    if crc32(payload, crc32(key)) != int.from_bytes(view[:4], "big"):
        raise CorruptRecord(key, "a record fails its checksum")
    return payload


def pack_integer(number: int) -> bytes:
    """Eight bytes that sort as the number."""
    return number.to_bytes(8, "big")


def unpack_integer(packed: Buffer) -> int:
    """The number of eight bytes."""
    return int.from_bytes(packed, "big")


# -- keys -----------------------------------------------------------------------------


def path_key(path: str) -> bytes:
    """The key of a path; longer than LMDB's keys, a prefix and a hash of it."""
    raw = path.encode("utf-8")
    if len(raw) <= _LONG_PATH:
        return b"p" + raw
    return b"P" + raw[:_LONG_PATH_PREFIX] + hashlib.sha256(raw).digest()


def stream_key(stream_id: int) -> bytes:
    """The key of a stream's record."""
    return b"s" + stream_id.to_bytes(8, "big")


def data_key(stream_id: int, position: int) -> bytes:
    """The key of the data record that begins at a position."""
    return b"d" + stream_id.to_bytes(8, "big") + position.to_bytes(8, "big")


def producer_name(producer_id: str) -> bytes:
    """What a producer is found by: its id, or a hash where that is long."""
    raw = producer_id.encode("utf-8")
    return b"=" + raw if len(raw) <= _LONG_PRODUCER else b"#" + hashlib.sha256(raw).digest()


def producer_key(stream_id: int, generation: int, name: bytes) -> bytes:
    """The key of what a stream remembers of a producer.

    Those of the first generation sort before all others, and are as formats up to 3 had them.
    """
    if not generation:
        return b"q" + stream_id.to_bytes(8, "big") + name
    return b"q" + stream_id.to_bytes(8, "big") + b"@" + generation.to_bytes(8, "big") + name


def parse_producer_key(key: bytes) -> tuple[int, bytes]:
    """The generation and the name in a producer's key."""
    if key[9:10] != b"@":
        return 0, key[9:]
    return int.from_bytes(key[10:18], "big"), key[18:]


def deadline_key(deadline: int, stream_id: int) -> bytes:
    """The key that brings a stream to the sweep's notice at a moment (ms since 1970)."""
    return b"x" + deadline.to_bytes(8, "big") + stream_id.to_bytes(8, "big")


def garbage_key(stream_id: int) -> bytes:
    """The key that says that a stream's bytes are to be freed."""
    return b"g" + stream_id.to_bytes(8, "big")


def old_producers_key(stream_id: int, generation: int) -> bytes:
    """The key that says that producers of the generations before one are to be freed."""
    return garbage_key(stream_id) + generation.to_bytes(8, "big")


def garbage_ranges(key: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The key ranges that are to be freed by an entry among `GARBAGE`."""
    stream_id = unpack_integer(key[1:9])
    if len(key) == len(garbage_key(stream_id)):
        # Entries of its producers first: without the stream they would say nothing.
        entries = key + b"\x00", _owned(GARBAGE[0], stream_id)[1]
        return (entries, *stream_ranges(stream_id), *subscription_ranges(stream_id))
    return ((b"q" + key[1:9], b"q" + key[1:9] + b"@" + key[9:17]),)


def stream_ranges(stream_id: int) -> tuple[tuple[bytes, bytes], ...]:
    """The key ranges that a stream's bytes and producers lie in."""
    return (_owned(b"d", stream_id), _owned(b"q", stream_id))


def subscription_ranges(number: int) -> tuple[tuple[bytes, bytes], ...]:
    """The key ranges that a subscription's links and cursors lie in. Numbers are stream ids
    that no stream has."""
    return (_owned(b"e", number), _owned(b"k", number))


def _owned(prefix: bytes, number: int) -> tuple[bytes, bytes]:
    first = prefix + pack_integer(number)
    if number == _LARGEST_ID:
        return first, bytes((prefix[0] + 1,))
    return first, prefix + pack_integer(number + 1)


def listing_key(path: str) -> bytes:
    """What paths are listed by: their bytes.

    Those that are too long for a key have its hash in place of their end, so that they can be
    walked through in this order too. No path has the byte between, so they stand behind all
    shorter ones that begin as they do, and no two share a place.
    """
    raw = path.encode("utf-8")
    if len(raw) <= _LONG_PATH:
        return raw
    return raw[:_LONG_PATH_PREFIX] + b"\xff" + hashlib.sha256(raw).digest()


def path_ranges(prefix: str, after: str = "") -> tuple[tuple[bytes, bytes], ...]:
    """The key ranges that hold the paths which begin with a text, and perhaps others.

    Only those behind ``after`` in the order of `listing_key`.
    """
    raw, passed = prefix.encode("utf-8"), after.encode("utf-8")
    short, long = PATHS
    # All long paths that begin as a short one does stand behind it.
    least = long[0] + passed[:_LONG_PATH_PREFIX]
    if len(passed) > _LONG_PATH:
        least = path_key(after) + b"\x00"
    return (
        _path_range(short, raw[:_LONG_PATH], short[0] + listing_key(after) + b"\x00"),
        _path_range(long, raw[:_LONG_PATH_PREFIX], least),
    )


def listing_range(prefix: str) -> tuple[bytes, bytes]:
    """The part of the order of `listing_key` that holds the paths which begin with a text."""
    raw = prefix.encode("utf-8")[:_LONG_PATH_PREFIX]
    return raw, _behind(raw) or b"\xff"


def _path_range(kind: tuple[bytes, bytes], raw: bytes, least: bytes) -> tuple[bytes, bytes]:
    return max(kind[0] + raw, least), kind[0] + _behind(raw) if raw else kind[1]


def _behind(raw: bytes) -> bytes:
    """The least bytes behind all that begin with some, which are of UTF-8: none is 0xFF."""
    return raw[:-1] + bytes((raw[-1] + 1,)) if raw else b""


def is_short(key: bytes) -> bool:
    """Whether a path's key has the whole path."""
    return key[:1] == PATHS[0][0]


def path_of(key: bytes, payload: Buffer) -> str:
    """The path of a path's record."""
    return bytes(payload[8:] or key[1:]).decode("utf-8")


def position_of(key: Buffer) -> int:
    """The position in a data record's key."""
    return int.from_bytes(key[9:17], "big")


# -- values -----------------------------------------------------------------------------


def pack_meta(meta: Meta) -> bytes:
    """The value of `META_KEY`: plain JSON, which every later program can read."""
    return msgspec.json.encode(meta)


def unpack_meta(value: Buffer) -> Meta:
    """What wrote a store. Raises `msgspec.MsgspecError` where it is none of ours."""
    try:
        return _meta.decode(value)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None


def pack_path(path: str, stream_id: int) -> bytes:
    """The payload of a path's record."""
    raw = path.encode("utf-8")
    return pack_integer(stream_id) + (raw if len(raw) > _LONG_PATH else b"")


def unpack_path(payload: Buffer) -> int:
    """The stream id in a path's record."""
    return int.from_bytes(payload[:8], "big")


def pack_stream(record: StreamRecord) -> bytes:
    """The payload of a stream's record."""
    return _packer.encode(record)


def unpack_stream(key: bytes, value: Buffer) -> StreamRecord:
    """A stream's record. Raises `CorruptRecord`."""
    payload = unseal(key, value)
    try:
        return _stream.decode(payload)
    except msgspec.MsgspecError as error:
        raise CorruptRecord(key, f"a stream record cannot be read ({error})") from None


def pack_producer(state: ProducerState) -> bytes:
    """The payload of a producer's record."""
    return _packer.encode(state)


def unpack_producer(key: bytes, value: Buffer) -> ProducerState:
    """A producer's record. Raises `CorruptRecord`."""
    payload = unseal(key, value)
    try:
        return _producer.decode(payload)
    except msgspec.MsgspecError as error:
        raise CorruptRecord(key, f"a producer record cannot be read ({error})") from None


def pack_data(key: bytes, flags: int, payload: bytes) -> bytes:
    """The whole value of a data record."""
    return seal(key, bytes((flags,)) + payload)


def extend_data(value: bytes, more: bytes) -> bytes:
    """The value of a data record with more bytes at its end.

    The checksum goes on from the one that is there: wrong bytes stay wrong.
    """
    check = crc32(more, int.from_bytes(value[:4], "big"))
    return b"".join((check.to_bytes(4, "big"), value[4:], more))


def data_size(value: Buffer) -> int:
    """How many bytes of a stream a data record has."""
    return len(value) - _BEFORE_DATA


def unpack_data(key: bytes, value: Buffer) -> tuple[int, memoryview]:
    """Flags and bytes of a data record. Raises `CorruptRecord`."""
    payload = unseal(key, value)
    if not payload:
        raise CorruptRecord(key, "a data record has no flags")
    return payload[0], payload[1:]
