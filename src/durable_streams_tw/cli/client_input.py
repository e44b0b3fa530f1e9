"""Standard input for a client: read in a thread, cut into batches while one is on its way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any, Final

import click
from twisted.internet.defer import Deferred

from durable_streams_tw.client.messages import is_message

#: How much of what has been read may wait; then reading stops.
_READ_AHEAD: Final = 4 * 1024 * 1024
_PIECE: Final = 64 * 1024

#: A batch has about so many bytes at most, and so many lines: far below any server's limit.
MAX_BATCH: Final = 256 * 1024
MAX_LINES: Final = 5_000

#: The longest line.
MAX_LINE: Final = 64 * 1024 * 1024


class Input:
    """A descriptor that is read as its bytes come.

    A reactor cannot wait for files, so a thread reads; it is nobody's concern when the process
    ends.
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
        threading.Thread(target=self._read, name="input", daemon=True).start()

    async def take(self) -> bytes | None:
        """All that has come and was not taken, at least one byte; None at the end."""
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
        """All of it, when it has ended."""
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


class Lines:
    """Bytes in, in any pieces; batches of whole lines out.

    In JSON mode each line is a message, empty lines are none, and a batch is an array; else a
    batch is the lines as they are. Raises a `click.ClickException` where a line is no JSON, when
    the lines before it have been given out, or where one is longer than `MAX_LINE`.
    """

    def __init__(self, json_mode: bool) -> None:
        self._json = json_mode
        self._rest: list[bytes] = []
        self._held = 0
        self._number = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The batches that these bytes complete."""
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
        """The last batch: a line that nobody has ended."""
        rest, self._rest = b"".join(self._rest), []
        if rest:
            yield from self._batches([rest], b"")

    def _hold(self, data: bytes) -> None:
        self._rest.append(data)
        self._held += len(data)
        if self._held > MAX_LINE:
            raise click.ClickException(f"line {self._number + 1} has more than {MAX_LINE} bytes")

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
                    raise click.ClickException(f"line {self._number} is no JSON")
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


class Pieces:
    """Bytes in; the same out, cut where they are many."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The batches that these bytes come to."""
        for start in range(0, len(data), MAX_BATCH):
            yield data[start : start + MAX_BATCH]

    def end(self) -> Iterator[bytes]:
        """Nothing was held back."""
        return iter(())
