"""Arrays as parameters of statements, in PostgreSQL's binary format.

A batch passes its rows as one array per column. psycopg would look for an encoder for every
element, and choose the type of an array of integers by its greatest element.
"""

from __future__ import annotations

from struct import Struct, pack
from typing import Any, Final

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD: Final = Struct(">iiIii").pack
_EMPTY: Final = Struct(">iiI").pack
_INTEGER: Final = Struct(">iq").pack
_SIZE: Final = Struct(">i").pack
_NULL: Final = _SIZE(-1)
_INTEGER_SIZE: Final = 8


class Array:
    """Base of the arrays; ``oid`` is the number of their type."""

    oid: int

    def dump(self) -> bytes:
        """Return the array in binary format."""
        raise NotImplementedError


class Int8Array(list[int | None], Array):
    """Array of bigint; elements may be None."""

    oid = 1016

    def dump(self) -> bytes:
        """Return the array in binary format."""
        if not self:
            return _EMPTY(0, 0, 20)
        if None in self:
            values = [_NULL if each is None else _INTEGER(_INTEGER_SIZE, each) for each in self]
            return _HEAD(1, True, 20, len(self), 1) + b"".join(values)
        # One call for all elements takes two thirds of the time.
        numbers: list[Any] = [_INTEGER_SIZE] * (2 * len(self))
        numbers[1::2] = self
        return _HEAD(1, False, 20, len(self), 1) + pack(">" + "iq" * len(self), *numbers)


class ByteaArray(list[bytes], Array):
    """Array of bytea."""

    oid = 1001

    def dump(self) -> bytes:
        """Return the array in binary format."""
        return _bytes_array(17, self)


class TidArray(list[bytes], Array):
    """Array of tid: places of rows in their table, as results have them in binary format."""

    oid = 1010

    def dump(self) -> bytes:
        """Return the array in binary format."""
        return _bytes_array(27, self)


class TextArray(list[str], Array):
    """Array of text."""

    oid = 1009

    def dump(self) -> bytes:
        """Return the array in binary format."""
        return _bytes_array(25, [each.encode("utf-8") for each in self])


def _bytes_array(element: int, values: list[bytes]) -> bytes:
    if not values:
        return _EMPTY(0, 0, element)
    parts = [_HEAD(1, False, element, len(values), 1), *values, *values]
    parts[1::2] = map(_SIZE, map(len, values))
    parts[2::2] = values
    return b"".join(parts)


def _dumper(array: type[Array]) -> type[Dumper]:
    class _ArrayDumper(Dumper):
        format = Format.BINARY
        oid = array.oid

        def dump(self, obj: Array) -> bytes:
            return obj.dump()

    return _ArrayDumper


_DUMPERS: Final = {array: _dumper(array) for array in (Int8Array, ByteaArray, TidArray, TextArray)}


def register(connection: psycopg.Connection[Any]) -> None:
    """Let a connection take the arrays of this module as parameters."""
    for array, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(array, dumper)
