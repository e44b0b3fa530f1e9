"""Standard input of the client commands: read in a thread, divided into lines or pieces."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Protocol

import click
from twisted.internet.defer import Deferred

_STDIN: Final = 0
#: Bytes that may be buffered; beyond it the thread stops reading.
_READ_AHEAD: Final = 4 * 1024 * 1024
_PIECE: Final = 64 * 1024

#: Maximum size of a piece in bytes, far below the limits of servers.
MAX_PIECE: Final = 256 * 1024

#: Maximum length of a line in bytes.
MAX_LINE: Final = 64 * 1024 * 1024


class StdinReader:
    """Asynchronous reader of standard input.

    A daemon thread reads, because the reactor cannot wait for regular files. ``on_read`` is called
    with the number of bytes that `take` returns.
    """

    def __init__(
        self,
        reactor: Any,
        on_read: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._reactor = reactor
        self._on_read = on_read
        self._lock = threading.Condition()
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._failure: OSError | None = None
        self._waiting: Deferred[None] | None = None
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    async def take(self) -> bytes | None:
        """Return all bytes read since the last call, at least one; None at the end."""
        while True:
            with self._lock:
                if self._pieces:
                    data = b"".join(self._pieces)
                    self._pieces, self._size = [], 0
                    self._lock.notify()
                    self._on_read(len(data))
                    return data
                if self._failure is not None:
                    raise click.FileError("standard input", str(self._failure.strerror))
                if self._ended:
                    return None
                waiting: Deferred[None] = Deferred()
                self._waiting = waiting
            await waiting

    async def whole(self) -> bytes:
        """Return all bytes up to the end of file."""
        pieces = []
        while (piece := await self.take()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    def end(self) -> None:
        """Have `take` return None after the bytes already read, without an end of file."""
        self._ended = True
        self._reactor.callLater(0, self._wake)

    def _read(self) -> None:
        piece: bytes | None = None
        while piece != b"":
            failure = None
            try:
                piece = os.read(_STDIN, _PIECE)
            except OSError as error:
                piece, failure = b"", error
            with self._lock:
                if piece:
                    self._pieces.append(piece)
                    self._size += len(piece)
                else:
                    self._ended, self._failure = True, failure
            self._reactor.callFromThread(self._wake)
            with self._lock:
                self._lock.wait_for(lambda: self._size < _READ_AHEAD)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


class _Source(Protocol):
    async def take(self) -> bytes | None:
        """Return the next bytes, None at their end."""


async def lines_of(source: _Source) -> AsyncGenerator[bytes, None]:
    """Yield the lines of the input with their newlines.

    Raises `click.ClickException` for a line longer than `MAX_LINE`.
    """
    rest: list[bytes] = []
    held = number = 0
    while (data := await source.take()) is not None:
        head, newline, tail = data.rpartition(b"\n")
        if newline:
            lines = b"".join([*rest, head]).split(b"\n")
            rest, held = [], 0
            number += len(lines)
            for line in lines:
                yield line + b"\n"
        if tail:
            rest.append(tail)
            held += len(tail)
        if held > MAX_LINE:
            raise click.ClickException(f"Line {number + 1} is longer than {MAX_LINE} bytes.")
    if rest:
        yield b"".join(rest)


async def pieces_of(source: _Source) -> AsyncGenerator[bytes, None]:
    """Yield the input in pieces of at most `MAX_PIECE` bytes."""
    while (data := await source.take()) is not None:
        for start in range(0, len(data), MAX_PIECE):
            yield data[start : start + MAX_PIECE]
