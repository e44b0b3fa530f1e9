"""Bare sender of events, which measures the limit of the benchmark's subscribers.

    python -m bench.sender PORT

It implements just enough of the protocol for `subscribers`, and writes to each subscriber
at once.
"""

from __future__ import annotations

import select
import socket
import sys

PIECE = 1 << 16
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
FOUND = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
OPENED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTROL = (
    b'event: control\ndata: {"streamNextOffset":"0000000000000000_%016d",'
    b'"streamCursor":"3355631","upToDate":true}\n\n'
)


class Sender:
    """Epoll loop over all connections."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._poll = select.epoll()
        self._poll.register(self._listener.fileno(), select.EPOLLIN)
        self._connections: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._subscribers: dict[int, socket.socket] = {}
        self._frames: list[bytes] = []
        self._position = 0

    def run(self) -> None:
        """Serve forever."""
        while True:
            for number, _ in self._poll.poll():
                if number == self._listener.fileno():
                    one, _ = self._listener.accept()
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                    self._connections[one.fileno()] = one
                    self._poll.register(one.fileno(), select.EPOLLIN)
                else:
                    self._read(number)

    def _read(self, number: int) -> None:
        one = self._connections[number]
        try:
            data = one.recv(PIECE)
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(number)
            self._subscribers.pop(number, None)
            del self._connections[number]
            one.close()
            return
        data = self._partial.pop(number, b"") + data
        head, end, body = data.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if not end or len(body) < int(fields.get(b"Content-Length", b"0")):
            self._partial[number] = data
        elif head.startswith(b"GET"):
            self._subscribers[number] = one
            one.sendall(OPENED + _chunk(CONTROL % self._position))
        elif head.startswith(b"POST"):
            self._position += len(body)
            event = b"event: data\ndata: " + body + b"\n\n" + CONTROL % self._position
            self._frames.append(_chunk(event))
            one.sendall(EMPTY)
            if b"Bench-More" not in fields:
                self._deliver()
        else:
            one.sendall(CREATED if head.startswith(b"PUT") else FOUND)

    def _deliver(self) -> None:
        frame = b"".join(self._frames)
        self._frames.clear()
        for one in self._subscribers.values():
            one.sendall(frame)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


if __name__ == "__main__":
    Sender(int(sys.argv[1])).run()
