"""Arrays as parameters of statements, in PostgreSQL's binary format.

A batch passes its rows as one array per column. psycopg would look for an encoder for every
element, and choose the type of an array of integers by its greatest element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, Final

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD: Final = Struct(">iiIii").pack
_EMPTY: Final = Struct(">iiI").pack
_INTEGER: Final = Struct(">iq").pack
_SIZE: Final = Struct(">i").pack
_NULL: Final = _SIZE(-1)


class Int8Array(list[int | None]):
    """Array of bigint; elements may be None."""


class ByteaArray(list[bytes]):
    """Array of bytea."""


class TextArray(list[str]):
    """Array of text."""


def _array(element: int, values: Sequence[object], encoded: Iterable[bytes]) -> bytes:
    if not values:
        return _EMPTY(0, 0, element)
    return _HEAD(1, None in values, element, len(values), 1) + b"".join(encoded)


class _Int8ArrayDumper(Dumper):
    format = Format.BINARY
    oid = 1016

    def dump(self, obj: Int8Array) -> bytes:
        return _array(20, obj, [_NULL if each is None else _INTEGER(8, each) for each in obj])


class _ByteaArrayDumper(Dumper):
    format = Format.BINARY
    oid = 1001

    def dump(self, obj: ByteaArray) -> bytes:
        return _array(17, obj, [part for each in obj for part in (_SIZE(len(each)), each)])


class _TextArrayDumper(Dumper):
    format = Format.BINARY
    oid = 1009

    def dump(self, obj: TextArray) -> bytes:
        raw = [each.encode("utf-8") for each in obj]
        return _array(25, obj, [part for each in raw for part in (_SIZE(len(each)), each)])


def register(connection: psycopg.Connection[Any]) -> None:
    """Let a connection take the arrays of this module as parameters."""
    adapters = connection.adapters
    adapters.register_dumper(Int8Array, _Int8ArrayDumper)
    adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
    adapters.register_dumper(TextArray, _TextArrayDumper)
