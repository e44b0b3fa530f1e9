"""Load generator with exact counts: connections that send one request after another.

It fills stores, and counts acknowledged requests per connection before a server is killed. It
generates none of the reported rates; wrk does.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from httptools import HttpResponseParser

PIECE = 1 << 16
WAIT = 0.5


class _Connection:
    """Connection and the responses that it has received."""

    def __init__(self, port: int, requests: Iterator[bytes]) -> None:
        self.requests = requests
        self.acknowledged = 0
        self.refused: list[int] = []
        self.rest = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.parser = HttpResponseParser(self)
        self.answered = False

    def on_message_complete(self) -> None:
        """Count a complete response. httptools calls this."""
        self.answered = True
        status = self.parser.get_status_code()
        if status in (200, 201, 204):
            self.acknowledged += 1
        else:
            self.refused.append(status)

    def send(self, data: bytes) -> bool:
        """Send as much as the socket takes; return True if nothing is left."""
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        self.rest = data[sent:]
        return not self.rest


class LoadGenerator:
    """Group of connections, each with its own requests, or all with one iterator."""

    def __init__(self, port: int, sources: Sequence[Iterator[bytes]]) -> None:
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self.all: list[_Connection] = []
        for requests in sources:
            connection = _Connection(port, requests)
            self.all.append(connection)
            self._connections[connection.socket.fileno()] = connection
            self._poll.register(connection.socket.fileno(), select.EPOLLIN)
        self._begun = False

    @property
    def busy(self) -> bool:
        """Return True if a connection is open and has requests left."""
        return bool(self._connections)

    @property
    def acknowledged(self) -> int:
        """Return the number of successful responses."""
        return sum(connection.acknowledged for connection in self.all)

    @property
    def refused(self) -> list[int]:
        """Return the statuses of all other responses."""
        return [status for connection in self.all for status in connection.refused]

    def run(self, seconds: float) -> None:
        """Run until all requests have responses, all connections are closed, or time is up."""
        until = time.perf_counter() + seconds
        if not self._begun:
            self._begun = True
            for connection in list(self._connections.values()):
                self._next(connection)
        while self._connections and time.perf_counter() < until:
            for number, events in self._poll.poll(WAIT):
                connection = self._connections[number]
                rest = connection.rest
                if events & select.EPOLLOUT and rest and connection.send(rest):
                    self._poll.modify(number, select.EPOLLIN)
                if events & ~select.EPOLLOUT:
                    self._receive(connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._connections.values()):
            self._leave(connection)
        self._poll.close()

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leave(connection)
            return
        connection.parser.feed_data(data)
        if connection.answered:
            connection.answered = False
            self._next(connection)

    def _next(self, connection: _Connection) -> None:
        request = next(connection.requests, None)
        if request is None:
            self._leave(connection)
            return
        try:
            if not connection.send(request):
                self._poll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            # The server may have responded before it died: count the responses that arrived.
            self._receive(connection)

    def _leave(self, connection: _Connection) -> None:
        number = connection.socket.fileno()
        if self._connections.pop(number, None) is not None:
            self._poll.unregister(number)
            connection.socket.close()


@dataclass(frozen=True)
class Filled:
    """Result of filling a store: acknowledged requests, seconds, statuses of refusals."""

    acknowledged: int
    seconds: float
    refused: list[int]


def fill(
    port: int,
    requests: Iterator[bytes],
    total: int,
    connections: int,
    limit: float,
    enough: int | None = None,
) -> Filled:
    """Send ``total`` requests over some connections, for at most ``limit`` seconds.

    Give up after a tenth of the limit if the rate so far is too low to finish within it, unless
    ``enough`` requests (fewer than ``total``) can be done by then.
    """
    crowd = LoadGenerator(port, [requests] * connections)
    wanted = total if enough is None else enough
    started = time.perf_counter()
    try:
        crowd.run(limit / 10)
        spent = time.perf_counter() - started
        while crowd.busy and spent < limit and crowd.acknowledged / spent * limit * 1.2 > wanted:
            crowd.run(min(limit / 10, limit - spent))
            spent = time.perf_counter() - started
        return Filled(crowd.acknowledged, spent, crowd.refused)
    finally:
        crowd.close()


def post(target: str, content_type: str, body: bytes, *fields: str) -> bytes:
    """Return the bytes of an append request."""
    return _request("POST", target, content_type, body, fields)


def put(target: str, content_type: str) -> bytes:
    """Return the bytes of a create request."""
    return _request("PUT", target, content_type, b"", ())


def _request(
    method: str, target: str, content_type: str, body: bytes, fields: Sequence[str]
) -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {content_type}"]
    head += [f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode("ascii") + body
