"""Connections that each send one request after the other: exact numbers, where wrk has times.

It fills stores, and counts per connection what was acknowledged before a server was killed. It
is not the load of any rate that is reported.
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


class _Talk:
    """One connection and what it has been told."""

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
        """An answer is whole."""
        self.answered = True
        status = self.parser.get_status_code()
        if status in (200, 201, 204):
            self.acknowledged += 1
        else:
            self.refused.append(status)

    def send(self, data: bytes) -> bool:
        """Sends what fits; gives whether that was all."""
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        self.rest = data[sent:]
        return not self.rest


class Crowd:
    """Some connections, each with its own requests, or all with the same iterator."""

    def __init__(self, port: int, sources: Sequence[Iterator[bytes]]) -> None:
        self._poll = select.epoll()
        self._talks: dict[int, _Talk] = {}
        self.all: list[_Talk] = []
        for requests in sources:
            talk = _Talk(port, requests)
            self.all.append(talk)
            self._talks[talk.socket.fileno()] = talk
            self._poll.register(talk.socket.fileno(), select.EPOLLIN)
        self._begun = False

    @property
    def busy(self) -> bool:
        """Whether any connection is still open and has something to do."""
        return bool(self._talks)

    @property
    def acknowledged(self) -> int:
        """How many requests were answered with success."""
        return sum(talk.acknowledged for talk in self.all)

    @property
    def refused(self) -> list[int]:
        """The statuses of all other answers."""
        return [status for talk in self.all for status in talk.refused]

    def run(self, seconds: float) -> None:
        """Goes on until all requests are answered, all connections are gone, or time is over."""
        until = time.perf_counter() + seconds
        if not self._begun:
            self._begun = True
            for talk in list(self._talks.values()):
                self._next(talk)
        while self._talks and time.perf_counter() < until:
            for number, events in self._poll.poll(WAIT):
                talk = self._talks[number]
                if events & select.EPOLLOUT and talk.rest and talk.send(talk.rest):
                    self._poll.modify(number, select.EPOLLIN)
                if events & ~select.EPOLLOUT:
                    self._receive(talk)

    def close(self) -> None:
        """Closes all connections."""
        for talk in list(self._talks.values()):
            self._leave(talk)
        self._poll.close()

    def _receive(self, talk: _Talk) -> None:
        try:
            data = talk.socket.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leave(talk)
            return
        talk.parser.feed_data(data)
        if talk.answered:
            talk.answered = False
            self._next(talk)

    def _next(self, talk: _Talk) -> None:
        request = next(talk.requests, None)
        if request is None:
            self._leave(talk)
            return
        try:
            if not talk.send(request):
                self._poll.modify(talk.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            # It may have answered before it went: what has come is still counted.
            self._receive(talk)

    def _leave(self, talk: _Talk) -> None:
        number = talk.socket.fileno()
        if self._talks.pop(number, None) is not None:
            self._poll.unregister(number)
            talk.socket.close()


@dataclass(frozen=True)
class Filled:
    """What a filling came to: requests acknowledged, seconds, statuses of refusals."""

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
    """Sends ``total`` requests over some connections; stops where ``limit`` seconds are not enough.

    Gives up early, after a tenth of the limit, when the rate so far says that the limit is not
    enough; but where ``enough`` (less than the total) can be done, goes on to the limit.
    """
    crowd = Crowd(port, [requests] * connections)
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
    """The bytes of an append."""
    return _request("POST", target, content_type, body, fields)


def put(target: str, content_type: str) -> bytes:
    """The bytes of a create."""
    return _request("PUT", target, content_type, b"", ())


def _request(
    method: str, target: str, content_type: str, body: bytes, fields: Sequence[str]
) -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {content_type}"]
    head += [f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode("ascii") + body
