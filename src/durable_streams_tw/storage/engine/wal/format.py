"""Binary format of the write-ahead log: a header for each segment, followed by entries.

An entry is one batch: the pairs that it sets and the keys that it deletes.

=========  =====================================================================
bytes      of an entry
=========  =====================================================================
4          magic number
4          length of the pairs
8          batch number; entries are numbered without gaps
4          CRC-32 of the WAL id and the first 16 bytes
4          CRC-32 of the WAL id, the first 16 bytes and the pairs
variable   pairs as MessagePack: keys to values, nil for deleted keys
=========  =====================================================================

A segment is overwritten from its beginning, so zeros or older entries follow its newest entry. The
older ones have smaller numbers, and an entry torn by a crash fails its checksum: a segment's run of
entries ends at the first that does not continue the one before. Clients do not know the WAL id, so
bytes that they append to a stream cannot pass for an entry or for its first 16 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct
from zlib_ng.zlib_ng import crc32

WAL_ID_SIZE: Final = 16
"""Size of the random id that a store's segments and its `CheckpointRecord` share."""

HEADER_SIZE: Final = 512
"""Offset of the first entry. Writing it must not touch the sector of the header."""

Pairs = Mapping[bytes, bytes | None]
"""Keys and their values, None for deleted keys."""

_SEGMENT_MAGIC: Final = b"DSTWJRN1"
_ENTRY_MAGIC: Final = b"\xf5DSe"
_PREFIX: Final = struct.Struct(">4sIQ")
_CHECKS: Final = struct.Struct(">II")
_PAYLOAD_OFFSET: Final = _PREFIX.size + _CHECKS.size
_SIZE: Final = 8

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(dict[bytes, bytes | None])


class Entry(Struct, frozen=True):
    """One batch in the log: its number, its pairs, and its encoded size in bytes."""

    number: int
    pairs: Pairs
    size: int


class SegmentHeader(Struct, frozen=True):
    """Header of a segment: the WAL id and the size of the file in bytes."""

    wal_id: bytes
    size: int


def pack_header(header: SegmentHeader) -> bytes:
    """Encode a segment header."""
    fields = _SEGMENT_MAGIC + header.wal_id + header.size.to_bytes(_SIZE, "big")
    return fields + crc32(fields).to_bytes(4, "big")


def unpack_header(data: bytes) -> SegmentHeader | None:
    """Decode the header of a segment. Return None if it is missing or damaged."""
    middle = len(_SEGMENT_MAGIC) + WAL_ID_SIZE
    end = middle + _SIZE
    fields, check = data[:end], data[end : end + 4]
    if fields[: len(_SEGMENT_MAGIC)] != _SEGMENT_MAGIC:
        return None
    if crc32(fields).to_bytes(4, "big") != check:
        return None
    return SegmentHeader(
        fields[len(_SEGMENT_MAGIC) : middle], int.from_bytes(fields[middle:], "big")
    )


def pack_entry(wal_id: bytes, number: int, pairs: Pairs) -> bytes:
    """Encode an entry."""
    payload = _encoder.encode(pairs)
    prefix = _PREFIX.pack(_ENTRY_MAGIC, len(payload), number)
    check = crc32(prefix, crc32(wal_id))
    return b"".join((prefix, _CHECKS.pack(check, crc32(payload, check)), payload))


def read_entries(data: bytes, wal_id: bytes) -> list[Entry]:
    """Return the entries of a segment from its beginning, as far as their numbers are consecutive.

    Entries with another WAL id are not returned.
    """
    found: list[Entry] = []
    position = HEADER_SIZE
    while True:
        entry = _entry_at(data, position, wal_id)
        if entry is None or (found and entry.number != found[-1].number + 1):
            return found
        found.append(entry)
        position += entry.size


def find_later_entry(data: bytes, wal_id: bytes, entries: list[Entry], applied: int) -> int | None:
    """Return the number of an entry after ``entries`` in a segment that is newer, or None.

    ``entries`` are those that `read_entries` found, ``applied`` is the last batch in LMDB. Such an
    entry proves damage in between: an entry is written only when the one before is durable, so a
    crash tears the last entry only.
    """
    newest = max(entries[-1].number, applied) if entries else applied
    position = HEADER_SIZE + sum(entry.size for entry in entries)
    while (position := data.find(_ENTRY_MAGIC, position)) >= 0:
        entry = _entry_at(data, position, wal_id)
        if entry is not None and entry.number > newest:
            return entry.number
        position += 1
    return None


def entry_begins(data: bytes, wal_id: bytes, number: int) -> bool:
    """Return whether a segment has the beginning of the entry ``number``, torn or complete."""
    position = HEADER_SIZE
    while (position := data.find(_ENTRY_MAGIC, position)) >= 0:
        prefix = data[position : position + _PREFIX.size]
        if len(data) >= position + _PAYLOAD_OFFSET:
            prefix_check, _ = _CHECKS.unpack_from(data, position + _PREFIX.size)
            if crc32(prefix, crc32(wal_id)) == prefix_check and _PREFIX.unpack(prefix)[2] == number:
                return True
        position += 1
    return False


def consecutive_after(entries: Iterable[Entry], applied: int) -> list[Entry]:
    """Return the entries after the batch ``applied``, in order, up to the first gap."""
    found: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: entry.number):
        if entry.number == applied + len(found) + 1:
            found.append(entry)
    return found


def _entry_at(data: bytes, position: int, wal_id: bytes) -> Entry | None:
    begin = position + _PAYLOAD_OFFSET
    prefix = data[position : position + _PREFIX.size]
    if len(data) < begin or not prefix.startswith(_ENTRY_MAGIC):
        return None
    prefix_check, check = _CHECKS.unpack_from(data, position + _PREFIX.size)
    if crc32(prefix, crc32(wal_id)) != prefix_check:
        return None
    _, length, number = _PREFIX.unpack(prefix)
    payload = memoryview(data)[begin : begin + length]
    if len(payload) < length or crc32(payload, prefix_check) != check:
        return None
    try:
        pairs = _decoder.decode(payload)
    except msgspec.MsgspecError:
        return None
    return Entry(number, pairs, _PAYLOAD_OFFSET + length)
