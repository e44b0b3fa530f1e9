"""Subscribers of one event stream, which count deliveries.

Every append contains a marker of 28 bytes that occurs nowhere else; searching for a
needle of that length skips most of the bytes. A marker torn between two reads is
found because the end of each read is put before the next one.
"""

from __future__ import annotations

import gc
import multiprocessing
import select
import socket
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawArray
from typing import Any

from bench.client import ROOT, TEXT
from bench.crowd import post
from bench.held import Held, answered

MARKER = b"<ABCDEFGHIJKLMNOPQRSTUVWXYZ>"
SIZE = 100
BODY = MARKER + b"." * (SIZE - len(MARKER))
KEPT = len(MARKER) - 1
# Bytes read from one connection at a time.
PIECE = 1 << 18
# A peer that knows the header may wait for more appends before it delivers; only the bare sender
# of this package does.
MORE = "Bench-More: 1"


class Missing(Exception):
    """Deliveries were missing or duplicated, or an append was not acknowledged."""


class Writer:
    """Writer in a process of its own, which sends each append after the response to the last.

    ``sent`` and ``answered`` are times (`time.perf_counter`) shared with this process.
    """

    def __init__(self, port: int, name: str, count: int, interval: float) -> None:
        self.sent: Any = RawArray("d", count)
        self.answered: Any = RawArray("d", count)
        context = multiprocessing.get_context("fork")
        arguments = (port, name, count, interval, self.sent, self.answered)
        self._process = context.Process(target=_write, args=arguments)

    def start(self) -> None:
        """Start the process."""
        self._process.start()

    def finish(self) -> None:
        """Wait for the end. Raise `Missing` if an append was not acknowledged."""
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise Missing("the writer got no response")
        if self._process.exitcode:
            raise Missing("an append was not acknowledged")

    def delays(self) -> list[float]:
        """Return the latency of each append in seconds, ascending."""
        return sorted(at - since for at, since in zip(self.answered, self.sent, strict=True))


def _write(port: int, name: str, count: int, interval: float, sent: Any, answered: Any) -> None:
    last = post(ROOT + name, TEXT, BODY)
    other = last if interval else post(ROOT + name, TEXT, BODY, MORE)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = time.perf_counter()
        for number in range(count):
            if interval:
                time.sleep(max(0.0, begun + number * interval - time.perf_counter()))
            sent[number] = time.perf_counter()
            connection.sendall(last if number == count - 1 else other)
            answer = b""
            while b"\r\n\r\n" not in answer:
                data = connection.recv(4096)
                if not data:
                    raise SystemExit(1)
                answer += data
            answered[number] = time.perf_counter()
            if answer[9:12] not in (b"200", b"204"):
                raise SystemExit(1)


class Subscribers:
    """Connections that follow one stream from its tail."""

    def __init__(self, port: int, name: str, count: int) -> None:
        self._port = port
        self._name = name
        self._count = count
        request = f"GET {ROOT}{name}?live=sse&offset=now HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        request += "Accept: text/event-stream\r\n\r\n"
        self._held = Held(port, request.encode("ascii"), answered)
        self._poll = select.epoll()
        self._buffer = bytearray(PIECE + KEPT)
        self._tails: dict[int, bytes] = {}
        self._seen: dict[int, int] = {}

    def __enter__(self) -> Subscribers:
        return self

    def __exit__(self, *details: object) -> None:
        self._held.close()
        self._poll.close()

    def open(self) -> None:
        """Subscribe, and wait until each subscriber has received one append."""
        self._held.open(self._count)
        for number in self._held.sockets:
            self._poll.register(number, select.EPOLLIN)
            self._tails[number] = b""
        self.follow(1, 0.0, 30.0)

    def follow(self, appends: int, interval: float, limit: float) -> Followed:
        """Let a writer append, and read until every subscriber has every append.

        With ``interval`` (seconds), appends are sent at that pace, else after the last response.

        Raise `Missing` after ``limit`` seconds, or if more arrives than was sent.
        """
        writer = Writer(self._port, self._name, appends, interval)
        self._seen = dict.fromkeys(self._tails, 0)
        with _no_collection():
            writer.start()
            used = time.process_time()
            begun = time.perf_counter()
            delays = self._read(appends * self._count, writer, bool(interval), limit)
            ended = time.perf_counter()
            used = time.process_time() - used
        writer.finish()
        wrong = [seen for seen in self._seen.values() if seen != appends]
        if wrong:
            raise Missing(f"{len(wrong)} subscribers have not {appends} appends: {wrong[:5]}")
        return Followed(
            deliveries=appends * self._count,
            seconds=ended - writer.sent[0],
            cpu=used / (ended - begun),
            delays=array("d", sorted(delays)),
            answers=writer.delays(),
        )

    def _read(self, wanted: int, writer: Writer, timed: bool, limit: float) -> array[float]:
        """Read until that many deliveries have arrived; return their delays if ``timed``."""
        buffer, tails, seen, poll = self._buffer, self._tails, self._seen, self._poll.poll
        sockets = self._held.sockets
        view = memoryview(buffer)
        sent = writer.sent
        delays = array("d")
        clock = time.perf_counter
        until = clock() + limit
        got = 0
        while got < wanted:
            if clock() > until:
                raise Missing(f"{got} of {wanted} deliveries came within {limit:g} s")
            for number, _ in poll(1.0, len(tails)):
                tail = tails[number]
                kept = len(tail)
                buffer[:kept] = tail
                try:
                    size = sockets[number].recv_into(view[kept:])
                except BlockingIOError:
                    continue
                if not size:
                    raise Missing(f"a subscriber was cut off after {seen[number]} appends")
                end = kept + size
                tails[number] = bytes(view[max(0, end - KEPT) : end])
                found = buffer.count(MARKER, 0, end)
                if not found:
                    continue
                got += found
                first = seen[number]
                seen[number] = first + found
                if timed:
                    now = clock()
                    for append in range(first, min(first + found, len(sent))):
                        delays.append(now - sent[append])
        return delays


class Followed:
    """Result of following: deliveries, seconds, CPU share, and sorted latencies.

    ``seconds`` lasts from the first append to the last delivery. Delays of deliveries and
    responses are in seconds, ascending.
    """

    def __init__(
        self,
        deliveries: int,
        seconds: float,
        cpu: float,
        delays: array[float],
        answers: list[float],
    ) -> None:
        self.deliveries = deliveries
        self.seconds = seconds
        self.cpu = cpu
        self.delays = delays
        self.answers = answers


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
