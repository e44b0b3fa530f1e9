"""twisted.web resources over HTTP/2, for requests that are not for streams."""

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
    """twisted.web site whose resources handle requests that are not for streams."""

    bodies: BodyBudget
    requestFactory: Any


class RequestChannel:
    """Channel between a `twisted.web.http.Request` and an HTTP/2 stream.

    It has the methods of `HTTPChannel` that requests call.
    """

    # HTTP/2 has no transport for a single request.
    transport = None
    factory = None

    def __init__(self, stream: Http2Stream, site: ResourceSite) -> None:
        self.site = site
        self._stream = stream
        self._request: Any = None
        self._producer: Any = None

    def execute(self, body: bytes) -> None:
        """Let the resource render the request."""
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
        """Pause the producer: the client accepts no bytes."""
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Resume the producer."""
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
        """Return whether the connection uses TLS."""
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
        """Register a push producer. No resource here has a pull producer."""
        assert streaming, "pull producers are not supported over HTTP/2"
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._producer = None

    def loseConnection(self) -> None:
        """Reset the stream: the body stays incomplete."""
        self.abortConnection()

    def abortConnection(self) -> None:
        """Reset the stream: the body stays incomplete."""
        stream = self._stream
        self._request = stream.request = None
        if not stream.over:
            stream.connection.reset(stream, Code.INTERNAL_ERROR)
