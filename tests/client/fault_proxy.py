"""HTTP proxy that injects faults: delays, statuses, lost connections, altered bodies.

`FaultProxy` listens on a port of its own and forwards each request to one server, unless a function
returns a `Fault` for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import h11
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure


class Fault(Struct, frozen=True, kw_only=True):
    """Fault of one request.

    ``delay`` is in seconds, before anything else. ``status`` is the response instead of the
    server's, ``drop`` closes the connection without a response; with ``forward``, the server
    carries out the request before. ``truncate`` limits the body of the server's response to that
    many bytes, ``corrupt`` overwrites its beginning, and ``event`` is sent before it if it is an
    event stream.
    """

    delay: float = 0.0
    status: int | None = None
    retry_after: int | None = None
    drop: bool = False
    forward: bool = False
    truncate: int | None = None
    corrupt: bool = False
    event: bytes = b""

    @property
    def alters_body(self) -> bool:
        """True if the whole body of the response is needed before it is sent."""
        return self.truncate is not None or self.corrupt

    def altered(self, body: bytes) -> bytes:
        """Return the body truncated or corrupted."""
        if self.truncate is not None:
            body = body[: self.truncate]
        return b"XY" + body[2:] if self.corrupt and body else body


Choose = Callable[[str, str], Fault | None]
"""Function that returns the fault of a request by its method and path."""


class FaultProxy:
    """Proxy on a random port of the loopback interface; ``port`` is its number."""

    def __init__(self, reactor: Any, server_port: int, choose: Choose) -> None:
        self.reactor = reactor
        self.server_port = server_port
        self.choose = choose
        self.clients: set[_Client] = set()
        self.port = 0
        self._listening: Any = None

    async def start(self) -> None:
        """Listen."""
        endpoint = TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1")
        self._listening = await endpoint.listen(Factory.forProtocol(lambda: _Client(self)))
        self.port = self._listening.getHost().port

    async def stop(self) -> None:
        """Close the port and all connections."""
        await self._listening.stopListening()
        gone = [client.gone for client in self.clients]
        for client in list(self.clients):
            client.transport.abortConnection()
        for deferred in gone:
            await deferred


class _Client(Protocol):
    """Connection of a client. Each of its requests is forwarded on a connection of its own."""

    transport: Any

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self.gone: Deferred[None] = Deferred()
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = b""
        self._server: _Server | None = None
        self._waiting: deque[bytes] = deque()

    def connectionMade(self) -> None:
        self._proxy.clients.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._proxy.clients.discard(self)
        if self._server is not None:
            self._server.transport.abortConnection()
        self.gone.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._read()

    def _read(self) -> None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request, self._body = event, b""
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert self._request is not None, "the end of a request came before its start"
                self._answer(self._request, self._body)
            else:
                return

    def _answer(self, request: h11.Request, body: bytes) -> None:
        path = request.target.partition(b"?")[0].decode()
        fault = self._proxy.choose(request.method.decode(), path) or Fault()
        if fault.delay:
            self._proxy.reactor.callLater(fault.delay, self._act, fault, request, body)
        else:
            self._act(fault, request, body)

    def _act(self, fault: Fault, request: h11.Request, body: bytes) -> None:
        if self.gone.called:
            return
        if (fault.drop or fault.status is not None) and not fault.forward:
            self.fail(fault)
            return
        endpoint = TCP4ClientEndpoint(self._proxy.reactor, "127.0.0.1", self._proxy.server_port)
        server = _Server(self, fault, request, body)
        connectProtocol(endpoint, server).addErrback(lambda _: self.bad_gateway())

    def set_server(self, server: _Server | None) -> None:
        """Record the connection to the server that the current request uses."""
        self._server = server
        if server is not None and self.gone.called:
            server.transport.abortConnection()

    def fail(self, fault: Fault) -> None:
        """Respond with the status of a fault, or close the connection."""
        if fault.drop:
            self.transport.abortConnection()
            return
        headers = [("Content-Type", "text/plain")]
        if fault.retry_after is not None:
            headers.append(("Retry-After", str(fault.retry_after)))
        self.respond(fault.status or 502, headers, b"injected fault")

    def bad_gateway(self) -> None:
        """Respond with 502: the server cannot be reached or has closed its connection."""
        if self._http.our_state is h11.SEND_RESPONSE and not self.gone.called:
            self.respond(502, [("Content-Type", "text/plain")], b"the server is away")
        else:
            self.transport.abortConnection()

    def respond(self, status: int, headers: Any, body: bytes) -> None:
        """Send a whole response."""
        length = [("Content-Length", str(len(body)))]
        self.send(h11.Response(status_code=status, headers=[*headers, *length]))
        self.send(h11.Data(data=body))
        self.send(h11.EndOfMessage())

    def send(self, event: Any) -> None:
        """Send a part of a response; after the last, read the next request."""
        if self.gone.called:
            return
        self.transport.write(self._http.send(event) or b"")
        if not isinstance(event, h11.EndOfMessage):
            return
        if self._http.our_state is h11.MUST_CLOSE:
            self.transport.loseConnection()
        elif self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
            self._read()


class _Server(Protocol):
    """Connection to the server, for one request."""

    transport: Any

    def __init__(self, client: _Client, fault: Fault, request: h11.Request, body: bytes) -> None:
        self._client = client
        self._fault = fault
        self._sent = request
        self._body = body
        self._http = h11.Connection(h11.CLIENT)
        self._response: h11.Response | None = None
        self._gathered = b""
        self._done = False

    def connectionMade(self) -> None:
        self._client.set_server(self)
        for event in (self._sent, h11.Data(data=self._body), h11.EndOfMessage()):
            self.transport.write(self._http.send(event) or b"")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client.set_server(None)
        if not self._done and not self._client.gone.called:
            self._client.bad_gateway()

    def dataReceived(self, data: bytes) -> None:
        self._http.receive_data(data)
        while not self._done:
            event = self._http.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return
            self._forward(event)

    def _forward(self, event: Any) -> None:
        fault = self._fault
        if isinstance(event, h11.EndOfMessage):
            self._done = True
            self.transport.loseConnection()
        if fault.forward:
            if self._done:
                self._client.fail(fault)
        elif fault.alters_body:
            self._alter(event)
        else:
            self._client.send(event)
            if fault.event and isinstance(event, h11.Response) and _is_event_stream(event):
                self._client.send(h11.Data(data=fault.event))

    def _alter(self, event: Any) -> None:
        if isinstance(event, h11.Response):
            self._response = event
        elif isinstance(event, h11.Data):
            self._gathered += event.data
        else:
            assert self._response is not None, "the end of a response came before its start"
            length = (b"content-length", b"transfer-encoding")
            headers = [pair for pair in self._response.headers if pair[0] not in length]
            body = self._fault.altered(self._gathered)
            self._client.respond(self._response.status_code, headers, body)


def _is_event_stream(response: h11.Response) -> bool:
    return any(value.startswith(b"text/event-stream") for _, value in response.headers)
