"""Thousands of connections that are opened and then held."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

# Concurrent connects: fewer than any server's backlog.
WINDOW = 32
# One source address has about 28,000 ports for one destination.
PER_ADDRESS = 10_000
CONNECT_SECONDS = 120.0
PIECE = 1 << 16
# <linux/in.h>; Python names it from 3.12 on. The port is chosen when connecting, so that the
# same one can serve for several addresses.
IP_BIND_ADDRESS_NO_PORT = 24


class NotHeld(Exception):
    """Connections could not be opened, or got a wrong response."""


def connect(port: int, number: int) -> socket.socket:
    """Start to connect, from a source address chosen by the connection's number."""
    one = socket.socket()
    one.setblocking(False)
    one.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    one.bind((f"127.0.0.{2 + number // PER_ADDRESS}", 0))
    one.connect_ex(("127.0.0.1", port))
    return one


def answered(data: bytes) -> bool:
    """Return True if a head of status 200 is complete. Raise `NotHeld` at any other status."""
    if len(data) >= 12 and data[9:12] != b"200":
        raise NotHeld(f"got {data[:80]!r}")
    return b"\r\n\r\n" in data


def unanswered(data: bytes) -> bool:
    """Return True: no response is expected."""
    return True


class Held:
    """Many connections to one server.

    Each sends ``request`` once. ``ready`` decides from all bytes received whether a
    connection is complete.
    """

    def __init__(self, port: int, request: bytes, ready: Callable[[bytes], bool]) -> None:
        self._port = port
        self._request = request
        self._ready = ready
        self._poll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}

    def open(self, count: int) -> float:
        """Open all connections; return the seconds. Raise `NotHeld`."""
        started = time.perf_counter()
        waiting: dict[int, bytes | None] = {}
        begun = done = 0
        while done < count:
            if time.perf_counter() - started > CONNECT_SECONDS:
                raise NotHeld(f"only {done} of {count} were open after {CONNECT_SECONDS:g} s")
            while begun < count and len(waiting) < WINDOW:
                one = connect(self._port, begun)
                begun += 1
                number = one.fileno()
                self.sockets[number] = one
                waiting[number] = None
                self._poll.register(number, select.EPOLLOUT)
            for number, _ in self._poll.poll(1.0):
                # Complete connections may receive more bytes; they are left unread.
                if number in waiting and self._step(number, waiting):
                    del waiting[number]
                    self._poll.unregister(number)
                    done += 1
        return time.perf_counter() - started

    def _step(self, number: int, waiting: dict[int, bytes | None]) -> bool:
        one = self.sockets[number]
        come = waiting[number]
        if come is None:
            error = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise NotHeld(f"connecting failed with error {error}")
            one.send(self._request)
            come = waiting[number] = b""
            self._poll.modify(number, select.EPOLLIN)
        else:
            data = one.recv(PIECE)
            if not data:
                raise NotHeld("a connection was closed before it was answered")
            come = waiting[number] = come + data
        return self._ready(come)

    def still_open(self) -> int:
        """Return the number of open connections. Read and drop all received bytes."""
        return sum(_is_open(one) for one in self.sockets.values())

    def close(self) -> None:
        """Close all connections."""
        for one in self.sockets.values():
            one.close()
        self.sockets.clear()
        self._poll.close()


def _is_open(one: socket.socket) -> bool:
    while True:
        try:
            if not one.recv(PIECE):
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False
