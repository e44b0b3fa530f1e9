"""Durable store without threads and real time, for workloads and the check of images."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.limits import KIB
from durable_streams_tw.storage.api import Chunk, Outcome
from durable_streams_tw.storage.durable.store import DurableStore
from tests.crash.acknowledged import Contents, Operation, command, outcome_of
from tests.storage.shared.inline_executor import InlineExecutor

SEGMENT_SIZE = 32 * KIB
"""Size of a WAL segment in bytes: small, so that segments are reused often."""

NOW = 1_800_000_000_000
_PIECE = 1 << 20


class Unreadable(Exception):
    """Refusal of a read."""


class InlineStore:
    """Open store. Commands submitted together are committed together."""

    def __init__(self, directory: str, segment_size: int = SEGMENT_SIZE) -> None:
        self.clock, self.executor = Clock(), InlineExecutor()
        self.executor.held = True
        self.store = DurableStore(
            directory, self.clock, self.executor, segment_size=segment_size, now=lambda: NOW
        )
        self.store.open()
        self.executor.drain()

    def submit(self, operations: Sequence[Operation]) -> list[str]:
        """Carry out commands as one batch and return their outcomes."""
        done = [self.store.submit(command(operation)) for operation in operations]
        self.executor.turn()
        return [outcome_of(self._result(one)) for one in done]

    def _result(self, deferred: Deferred[Outcome]) -> Outcome:
        found: list[Outcome] = []
        deferred.addCallback(found.append)
        while not found:
            assert self.executor.busy, "a command has no outcome"
            self.executor.turn()
        return found[0]

    def advance(self, seconds: float) -> None:
        """Advance the clock and run due work."""
        self.clock.advance(seconds)
        self.executor.drain()

    def contents(self, paths: Sequence[str]) -> Contents:
        """Return the content of those streams that exist."""
        found = {path: self.content(path) for path in paths}
        return {path: one for path, one in found.items() if one is not None}

    def contents_or_none(self, paths: Sequence[str]) -> Contents | None:
        """Return the content of the streams, None while the disk fails."""
        try:
            return self.contents(paths)
        except Unreadable:
            return None

    def content(self, path: str) -> tuple[bytes, bool] | None:
        """Return the bytes of a stream and whether it is closed, None if it does not exist."""
        data = b""
        while True:
            chunks: list[Chunk | Refusal] = []
            self.store.read(path, len(data), _PIECE).addCallback(chunks.append)
            self.executor.drain()
            (chunk,) = chunks
            if isinstance(chunk, Refusal):
                if chunk.problem.slug in ("stream-not-found", "stream-gone"):
                    return None
                raise Unreadable(chunk)
            data += chunk.data
            if chunk.at_tail:
                return data, chunk.state.closed

    def close(self) -> None:
        """Finish accepted commands and close the store."""
        closed: list[None] = []
        self.store.close().addCallback(closed.append)
        self.executor.drain()
        assert closed, "the store did not close"
