"""Requests and responses, the interface between HTTP engines and handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Final, Protocol

from msgspec import Struct

from durable_streams_tw.live.body_output import BodySink
from durable_streams_tw.protocol.streams.commands import Append
from durable_streams_tw.protocol.streams.responses import Header


class HeadMemo(Struct, gc=False):
    """Results that handlers keep for later requests with an equal head.

    ``append`` is the command of an append, without its body.
    """

    append: Append | None = None


class Request(Struct, frozen=True, gc=False):
    """Complete request for a stream or control resource.

    ``root`` is the raw path up to the streams' root, with a slash at its end; ``path`` the raw
    path after it, still percent-encoded; ``query`` the raw query without the question mark.
    ``headers`` has lower-case names; repeated headers are joined with ``, ``. ``url`` is the
    stream's absolute URL as the client sees it, without query. Requests with an equal head on one
    connection share their ``memo``, if they have one.
    """

    method: bytes
    root: bytes
    path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    url: bytes
    memo: HeadMemo | None = None


class CommonHeaders:
    """Headers that many responses share, in order, with their serialization as HTTP/1.1 lines.

    Raise `ValueError` if a header contains a line break.
    """

    __slots__ = ("headers", "lines")

    def __init__(self, *headers: Header) -> None:
        self.headers = headers
        self.lines = b"".join([b"%b: %b\r\n" % field for field in headers])
        if self.lines.count(b"\n") != len(headers) or self.lines.count(b"\r") != len(headers):
            raise ValueError("a header contains a line break")


NO_HEADERS: Final = CommonHeaders()

#: Statuses of responses that never have a body.
NO_BODY: Final = frozenset((204, 304))


class InvalidHeader(ValueError):
    """A header of a response has a line break in its value."""


def encode_closing(
    status: int, headers: Iterable[Header], body: bytes, *, bodiless: bool = False
) -> bytes:
    """Return a whole HTTP/1.1 response after which the connection closes."""
    lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode("ascii"))]
    lines += [name + b": " + value for name, value in headers]
    lines += [b"Content-Length: %d" % len(body), b"Connection: close", b""]
    return b"\r\n".join((*lines, b"" if bodiless else body))


class BodyProducer(Protocol):
    """Producer of a body (`IPushProducer`), which writes to an `BodySink`."""

    def pauseProducing(self) -> None:
        """Pause: the transport's buffer is full."""

    def resumeProducing(self) -> None:
        """Resume: the transport's buffer is empty."""

    def stopProducing(self) -> None:
        """Stop: the connection is closed."""


Follow = Callable[[BodySink], BodyProducer]
"""Start a live body: write to the given sink, and return the producer to pause, resume and stop."""


class StreamedBody(Struct, frozen=True):
    """Body that is written in pieces and ends by itself.

    ``size`` is its length in bytes, None if unknown.
    """

    follow: Follow
    size: int | None


class Response(Struct, frozen=True):
    """Response: status, headers in order, and a body (bytes, streamed, or live).

    A live body (`Follow`) ends when the server decides. ``common`` headers come after ``own``
    ones. The HTTP engine adds Content-Length or Transfer-Encoding, Date and Connection.
    """

    status: int
    own: list[Header]
    body: bytes | StreamedBody | Follow = b""
    common: CommonHeaders = NO_HEADERS

    @property
    def headers(self) -> tuple[Header, ...]:
        """All headers in order."""
        return (*self.own, *self.common.headers)
