"""Helpers for offsets whose incarnation does not matter."""

from __future__ import annotations

from durable_streams_tw.protocol.streams.offsets import format_offset


def at(position: int) -> str:
    """Return the token of a position that names no incarnation."""
    return format_offset(None, position)


def position_of(token: str) -> int:
    """Return the position that a token of the server names."""
    incarnation, _, position = token.partition("_")
    assert len(incarnation) == 20 and int(incarnation) > 0, token
    return int(position)


def bare(token: str) -> str:
    """Return a token of the server without its incarnation."""
    return at(position_of(token))
