"""Requests and responses as the operations see them, whatever door they came through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from durable_streams_tw.live.fanout import Sink, Subscriber
from durable_streams_tw.protocol.answers import Field


class Request(Struct, frozen=True):
    """One complete request for a stream.

    ``path`` is the raw path behind the root, still percent-encoded; ``root`` the raw path up
    to there, a slash at its end; ``query`` the raw query, without its question mark.
    ``header`` has lower-case names, repeated fields joined with ``, ``. ``url`` is the
    stream's absolute URL as the client sees it, without query.
    """

    method: bytes
    root: bytes
    path: bytes
    query: bytes
    header: Mapping[bytes, bytes]
    body: bytes
    url: bytes


Follow = Callable[[Sink], Subscriber]
"""Begins a live body: given where to write, returns what has to be told of pauses and of
the end."""


class Response(Struct, frozen=True):
    """What a door sends: status, fields in order, and a body that is bytes or live.

    Doors add what is theirs: Content-Length or chunks, Date, Connection.
    """

    status: int
    fields: list[Field]
    body: bytes | Follow = b""
