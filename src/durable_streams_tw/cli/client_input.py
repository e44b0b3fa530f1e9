"""Standard input of the client commands: read in a thread, divided into batches."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any, Final

import click
from twisted.internet.defer import Deferred

from durable_streams_tw.client.messages import is_message

#: Bytes that may be buffered; beyond it the thread stops reading.
_READ_AHEAD: Final = 4 * 1024 * 1024
_PIECE: Final = 64 * 1024

#: Approximate maximum of bytes and of lines in a batch, far below the limits of servers.
MAX_BATCH: Final = 256 * 1024
MAX_LINES: Final = 5_000

#: Maximum length of a line in bytes.
MAX_LINE: Final = 64 * 1024 * 1024


class StdinReader:
    """Asynchronous reader of a file descriptor.

    A daemon thread reads, because the reactor cannot wait for regular files.
    """

    def __init__(self, reactor: Any, descriptor: int = 0) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._lock = threading.Condition()
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._failure: OSError | None = None
        self._waiting: Deferred[None] | None = None
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    async def take(self) -> bytes | None:
        """Return all bytes read since the last call, at least one; None at end of file."""
        while True:
            with self._lock:
                if self._pieces:
                    data = b"".join(self._pieces)
                    self._pieces, self._size = [], 0
                    self._lock.notify()
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

    def _read(self) -> None:
        piece: bytes | None = None
        while piece != b"":
            failure = None
            try:
                piece = os.read(self._descriptor, _PIECE)
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


class LineBatcher:
    """Divider of input into batches of whole lines.

    In JSON mode each line is a message, empty lines are skipped, and a batch is an array. Raises
    `click.ClickException` for a line that is not JSON, after the lines before it have been
    returned, or that is longer than `MAX_LINE`.
    """

    def __init__(self, json_mode: bool) -> None:
        self._json = json_mode
        self._rest: list[bytes] = []
        self._held = 0
        self._number = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the batches that these bytes complete."""
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            self._hold(data)
            return
        text = b"".join([*self._rest, head, newline])
        self._rest, self._held = [], 0
        if tail:
            self._hold(tail)
        yield from self._batches(text.split(b"\n")[:-1], b"\n")

    def end(self) -> Iterator[bytes]:
        """Yield the last line if it has no newline."""
        rest, self._rest = b"".join(self._rest), []
        if rest:
            yield from self._batches([rest], b"")

    def _hold(self, data: bytes) -> None:
        self._rest.append(data)
        self._held += len(data)
        if self._held > MAX_LINE:
            raise click.ClickException(f"Line {self._number + 1} is longer than {MAX_LINE} bytes.")

    def _batches(self, lines: list[bytes], ending: bytes) -> Iterator[bytes]:
        batch: list[bytes] = []
        size = 0
        for line in lines:
            self._number += 1
            if self._json:
                line = line.strip()
                if not line:
                    continue
                if not is_message(line):
                    if batch:
                        yield self._joined(batch, ending)
                    raise click.ClickException(f"Line {self._number} is not valid JSON.")
            if batch and (size + len(line) > MAX_BATCH or len(batch) == MAX_LINES):
                yield self._joined(batch, ending)
                batch, size = [], 0
            batch.append(line)
            size += len(line) + 1
        if batch:
            yield self._joined(batch, ending)

    def _joined(self, lines: list[bytes], ending: bytes) -> bytes:
        if self._json:
            return b"[" + b",".join(lines) + b"]"
        return b"\n".join(lines) + ending


class PieceBatcher:
    """Divider of input into batches of at most `MAX_BATCH` bytes."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield these bytes in batches."""
        for start in range(0, len(data), MAX_BATCH):
            yield data[start : start + MAX_BATCH]

    def end(self) -> Iterator[bytes]:
        """Yield nothing: no bytes are buffered."""
        return iter(())
