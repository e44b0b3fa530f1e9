"""Resources of twisted.web over HTTP/2: what is no stream, operators' resources above all."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from durable_streams_tw.http.body_budget import BodyBudget
from durable_streams_tw.http.http2.frames import Code
from durable_streams_tw.http.http2.stream import Http2Stream
from durable_streams_tw.http.messages import Response


class ResourceSite(Protocol):
    """twisted.web site whose resources answer requests that are not for streams."""

    bodies: BodyBudget
    requestFactory: Any


class RequestChannel:
    """What a `twisted.web.http.Request` writes to, between it and a stream of HTTP/2.

    It has the methods of an `HTTPChannel` that requests call.
    """

    # Requests look for a transport of their own, which HTTP/2 does not have.
    transport = None
    factory = None

    def __init__(self, stream: Http2Stream, site: ResourceSite) -> None:
        self.site = site
        self._stream = stream
        self._request: Any = None
        self._producer: Any = None

    def carry_out(self, body: bytes) -> None:
        """Let the resource answer the request."""
        head = self._stream.head
        make: Any = self.site.requestFactory
        self._request = request = make(self)
        for name, value in head.headers.items():
            request.requestHeaders.addRawHeader(name, value)
        request.gotLength(len(body))
        if body:
            request.handleContentChunk(body)
        target = head.line.split(b" ")[1]
        request.requestReceived(head.method, target, b"HTTP/2")

    # -- for the stream -------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Pause the producer: the client takes no bytes."""
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Let the producer go on."""
        if self._producer is not None:
            self._producer.resumeProducing()

    def lost(self) -> None:
        """Tell the request that nothing more can be written."""
        request, self._request = self._request, None
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if request is not None:
            request.connectionLost(Failure(ConnectionDone()))

    # -- for the request ------------------------------------------------------------------------

    def getPeer(self) -> Any:
        """Return the client's address."""
        return self._stream.connection.transport.getPeer()

    def getHost(self) -> Any:
        """Return the server's address."""
        return self._stream.connection.transport.getHost()

    def isSecure(self) -> bool:
        """Whether the connection is encrypted."""
        return self._stream.connection.secure

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Send the head of the response."""
        own = []
        length = None
        for name, values in headers.getAllRawHeaders():
            lower = name.lower()
            if lower == b"content-length":
                length = int(values[0])
            elif lower not in (b"date", b"connection", b"transfer-encoding"):
                own += [(name, value) for value in values]
        self._stream.connection.begin(self._stream, Response(int(code), own), length)

    def write(self, data: bytes) -> None:
        """Send bytes of the body."""
        self._stream.write(data)

    def writeSequence(self, parts: Any) -> None:
        """Send bytes of the body."""
        self._stream.write(b"".join(parts))

    def requestDone(self, request: object) -> None:
        """End the response."""
        stream = self._stream
        self._request = stream.request = None
        if not stream.over:
            stream.connection.finish(stream)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause a push producer while the client takes no bytes. No resource here has others."""
        assert streaming, "pull producers are not supported over HTTP/2"
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._producer = None

    def loseConnection(self) -> None:
        """End the response where it is."""
        self.abortConnection()

    def abortConnection(self) -> None:
        """Reset the stream: the body stays incomplete."""
        stream = self._stream
        self._request = stream.request = None
        if not stream.over:
            stream.connection.reset(stream, Code.INTERNAL_ERROR)
