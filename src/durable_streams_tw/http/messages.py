"""Requests and responses as the operations see them, whatever door they came through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from msgspec import Struct

from durable_streams_tw.live.body_output import BodySink
from durable_streams_tw.protocol.streams.responses import Header


class Request(Struct, frozen=True):
    """One complete request for a stream.

    ``path`` is the raw path behind the root, still percent-encoded; ``root`` the raw path up
    to there, a slash at its end; ``query`` the raw query, without its question mark.
    ``headers`` has lower-case names; repeated headers are joined with ``, ``. ``url`` is the
    stream's absolute URL as the client sees it, without query.
    """

    method: bytes
    root: bytes
    path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    url: bytes


class CommonHeaders:
    """Fields that many responses carry, in order, and the same as lines of a head.

    ``lines`` end with a line's end, each. Raises `ValueError` where a field would end its line.
    """

    __slots__ = ("headers", "lines")

    def __init__(self, *given: Header) -> None:
        self.headers = given
        self.lines = b"".join([b"%b: %b\r\n" % field for field in given])
        if self.lines.count(b"\n") != len(given) or self.lines.count(b"\r") != len(given):
            raise ValueError("a field has a line's end in it")


NO_HEADERS: Final = CommonHeaders()


class BodyProducer(Protocol):
    """Writes a body to a sink, and is told of its transport (`IPushProducer`)."""

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""

    def stopProducing(self) -> None:
        """The client is gone."""


Follow = Callable[[BodySink], BodyProducer]
"""Begins a body that is written as it comes: given where to write, returns what has to be told of
pauses and of the end."""


class StreamedBody(Struct, frozen=True):
    """A body that is written in pieces and comes to its end by itself.

    ``size`` is its length in bytes, None where that is not known before.
    """

    follow: Follow
    size: int | None


class Response(Struct, frozen=True):
    """What a door sends: status, fields in order, and a body: bytes, streamed, or live.

    A live body (`Follow`) has an end that the server chooses.

    ``common`` come behind ``own``. Doors add what is theirs: Content-Length or chunks, Date,
    Connection.
    """

    status: int
    own: list[Header]
    body: bytes | StreamedBody | Follow = b""
    common: CommonHeaders = NO_HEADERS

    @property
    def headers(self) -> tuple[Header, ...]:
        """All fields in order."""
        return (*self.own, *self.common.headers)
