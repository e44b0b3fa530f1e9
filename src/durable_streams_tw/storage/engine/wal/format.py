"""The bytes of the journal: a head for each file, and behind it one entry after another.

An entry is a batch: which pairs of the engine it sets and which keys it removes.

=========  =====================================================================
bytes      of an entry
=========  =====================================================================
4          a mark
4          how long the pairs are
8          its number: entries are numbered without a gap
4          CRC-32 of the store's wal_id and the sixteen bytes before
4          CRC-32 of the store's wal_id, the sixteen bytes, and the pairs
as said    the pairs, MessagePack: keys to values, or to nil where they go
=========  =====================================================================

A file is used again from its beginning, so behind the newest entry stand zeros or what is left
of older ones. Those have smaller numbers, and what a crash has torn fails its checksum: the run
of entries ends at the first that does not follow on the one before. The wal_id is known to no
client, so bytes that somebody appends to a stream never pass for an entry, nor for the beginning of
one, which would have to be looked at more closely.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct
from zlib_ng.zlib_ng import crc32

WAL_ID_SIZE: Final = 16
"""Bytes that tell whose journal it is: random, and the same in the store's map."""

HEADER_SIZE: Final = 512
"""Where the first entry begins: writing it must not touch the head's sector."""

Pairs = Mapping[bytes, bytes | None]
"""Keys and their values, None where a key goes."""

_FILE_MARK: Final = b"DSTWJRN1"
_MARK: Final = b"\xf5DSe"
_HEAD: Final = struct.Struct(">4sIQ")
_CHECKS: Final = struct.Struct(">II")
_BEHIND_HEAD: Final = _HEAD.size + _CHECKS.size
_SIZE: Final = 8

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(dict[bytes, bytes | None])


class Entry(Struct, frozen=True):
    """A batch: its number, its pairs, and how many bytes it takes in the journal."""

    number: int
    pairs: Pairs
    size: int


class SegmentHeader(Struct, frozen=True):
    """What a file begins with: whose it is, and how many bytes it has."""

    wal_id: bytes
    size: int


def pack_header(head: SegmentHeader) -> bytes:
    """The bytes of a head."""
    text = _FILE_MARK + head.wal_id + head.size.to_bytes(_SIZE, "big")
    return text + crc32(text).to_bytes(4, "big")


def unpack_header(data: bytes) -> SegmentHeader | None:
    """The head of a file; None where it has none that can be read."""
    middle = len(_FILE_MARK) + WAL_ID_SIZE
    end = middle + _SIZE
    text, check = data[:end], data[end : end + 4]
    if text[: len(_FILE_MARK)] != _FILE_MARK or crc32(text).to_bytes(4, "big") != check:
        return None
    return SegmentHeader(text[len(_FILE_MARK) : middle], int.from_bytes(text[middle:], "big"))


def pack_entry(wal_id: bytes, number: int, pairs: Pairs) -> bytes:
    """The bytes of an entry."""
    payload = _encoder.encode(pairs)
    head = _HEAD.pack(_MARK, len(payload), number)
    check = crc32(head, crc32(wal_id))
    return b"".join((head, _CHECKS.pack(check, crc32(payload, check)), payload))


def read_entries(data: bytes, wal_id: bytes) -> list[Entry]:
    """The entries of a file's bytes, from the first on, as far as they follow on each other."""
    found: list[Entry] = []
    position = HEADER_SIZE
    while True:
        entry = _entry_at(data, position, wal_id)
        if entry is None or (found and entry.number != found[-1].number + 1):
            return found
        found.append(entry)
        position += entry.size


def find_later_entry(data: bytes, wal_id: bytes, entries: list[Entry], applied: int) -> int | None:
    """The number of an entry that stands behind a run and is newer, None where there is none.

    ``applied`` is the number of the last entry that is in the map: no older one is missed.

    Where there is one, the bytes between were damaged: an entry is written only when the one
    before is on the disk, so a crash leaves none behind what it tore.
    """
    newest = max(entries[-1].number, applied) if entries else applied
    position = HEADER_SIZE + sum(entry.size for entry in entries)
    while (position := data.find(_MARK, position)) >= 0:
        entry = _entry_at(data, position, wal_id)
        if entry is not None and entry.number > newest:
            return entry.number
        position += 1
    return None


def entry_begins(data: bytes, wal_id: bytes, number: int) -> bool:
    """Return whether an entry of a number begins anywhere in a file, torn or not."""
    position = HEADER_SIZE
    while (position := data.find(_MARK, position)) >= 0:
        head = data[position : position + _HEAD.size]
        if len(data) >= position + _BEHIND_HEAD:
            head_check, _ = _CHECKS.unpack_from(data, position + _HEAD.size)
            if crc32(head, crc32(wal_id)) == head_check and _HEAD.unpack(head)[2] == number:
                return True
        position += 1
    return False


def consecutive_after(entries: Iterable[Entry], applied: int) -> list[Entry]:
    """Those of some entries that come behind a number, in order, up to the first gap."""
    found: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: entry.number):
        if entry.number == applied + len(found) + 1:
            found.append(entry)
    return found


def _entry_at(data: bytes, position: int, wal_id: bytes) -> Entry | None:
    begin = position + _BEHIND_HEAD
    head = data[position : position + _HEAD.size]
    if len(data) < begin or not head.startswith(_MARK):
        return None
    head_check, check = _CHECKS.unpack_from(data, position + _HEAD.size)
    if crc32(head, crc32(wal_id)) != head_check:
        return None
    _, length, number = _HEAD.unpack(head)
    payload = memoryview(data)[begin : begin + length]
    if len(payload) < length or crc32(payload, head_check) != check:
        return None
    try:
        pairs = _decoder.decode(payload)
    except msgspec.MsgspecError:
        return None
    return Entry(number, pairs, _BEHIND_HEAD + length)
