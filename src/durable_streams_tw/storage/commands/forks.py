"""Counting of messages after a fork's offset, for Stream-Fork-Sub-Offset (PROTOCOL.md §4.2).

The committer counts only where a few records hold all of them. Everything else is counted before,
in steps of bounded size beside the committer, and the transaction checks that the source is still
the one whose messages were counted. Bytes at a position never change, so the count cannot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import forks
from durable_streams_tw.protocol.streams.commands import CountedForkPoint, Create
from durable_streams_tw.protocol.streams.outcomes import Created
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.limits import (
    FORK_COUNT_COST,
    FORK_COUNT_STEP,
    FORK_INLINE_COUNT,
    MAX_COUNTED_FORKS,
)

Run = tuple[int, bytes | None]
"""Stored bytes of whole messages: how many, and the bytes; None in their place for one message that
is larger than a record."""

OVERLOADED = Refusal(
    Problem.OVERLOADED,
    "too many forks are waiting for the messages of their sources to be counted",
    ((b"Retry-After", b"1"),),
)


class Reader(Protocol):
    """What counting needs of a store, or of a moment of it."""

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream at a path."""

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream with an id."""

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Whether a position lies between messages."""

    def message_runs(self, state: StreamState, start: int) -> Iterator[Run]:
        """Yield the stored messages from a boundary to the tail, a record at a time."""


class Counting(Struct, frozen=True):
    """How far the messages of a source are counted, from the position ``start``."""

    source_id: int
    start: int
    step: forks.RemainingMessages


def needs_count(command: object) -> bool:
    """Whether messages may have to be counted before a command is carried out."""
    if not isinstance(command, Create) or command.fork is None:
        return False
    return command.fork.sub_offset > 0 and command.fork.counted is None


def fork(reader: Reader, source: StreamState, command: Create, now: int) -> Created | Refusal:
    """Fork a usable source, in the transaction of the command."""
    request = command.fork
    assert request is not None
    point = forks.locate_fork_point(source, command)
    if isinstance(point, forks.RemainingMessages):
        counted = request.counted
        if counted is not None and counted.of(source.id, point.position):
            point = counted.position
        elif source.tail - point.position > FORK_INLINE_COUNT:
            return forks.UNCOUNTED
        elif not reader.is_boundary(source, point.position):
            return forks.TORN
        else:
            point = _count(reader, source, point, None)
    if isinstance(point, Refusal):
        return point
    assert not isinstance(point, forks.RemainingMessages), (
        "all messages up to the tail were counted"
    )
    return forks.fork(source, command, point, reader.is_boundary(source, point), now)


def count_some(
    reader: Reader, command: Create, counting: Counting | None
) -> Create | Counting | Refusal:
    """Count about FORK_COUNT_STEP bytes of messages.

    Return the command once it can be carried out, or why it cannot be, or how far it has come.
    """
    request = command.fork
    assert request is not None
    if counting is None:
        source = reader.stream_at(request.source)
        if source is None or source.deleted or reader.stream_at(command.path) is not None:
            # The transaction needs no count to decide.
            return command
        point = forks.locate_fork_point(source, command)
        if not isinstance(point, forks.RemainingMessages):
            return command
        if source.tail - point.position <= FORK_INLINE_COUNT:
            return command
        if not reader.is_boundary(source, point.position):
            return forks.TORN
        counting = Counting(source.id, point.position, point)
    else:
        source = reader.stream(counting.source_id)
        if source is None:
            return command
    reached = _count(reader, source, counting.step, FORK_COUNT_STEP)
    if isinstance(reached, Refusal):
        return reached
    if isinstance(reached, forks.RemainingMessages):
        return replace(counting, step=reached)
    counted = CountedForkPoint(counting.source_id, counting.start, reached)
    return replace(command, fork=replace(request, counted=counted))


def _count(
    reader: Reader, source: StreamState, step: forks.RemainingMessages, limit: int | None
) -> int | forks.RemainingMessages | Refusal:
    for size, stored in reader.message_runs(source, step.position):
        reached = forks.count_messages(step, size, stored)
        if not isinstance(reached, forks.RemainingMessages):
            return reached
        step = reached
        if limit is not None:
            limit -= size + FORK_COUNT_COST
            if limit <= 0 and step.position < source.tail:
                return step
    return forks.OVERSHOOT


class _Waiting(Struct):
    command: Create
    counting: Counting | None
    told: Callable[[Create | Refusal], object]


class ForkCounter:
    """Forks that wait for their count, one step at a time for each in turn.

    One step is under way at a time, so that other reads find a thread. ``run`` carries out a step,
    a call of `count_some` on a command and how far it has come. All methods are called on the
    reactor's thread.
    """

    _log = Logger()

    def __init__(
        self,
        run: Callable[[Create, Counting | None], Deferred[Create | Counting | Refusal]],
        failed: Refusal,
    ) -> None:
        self._run = run
        self._failed = failed
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._stopping: Refusal | None = None

    def count(self, command: Create, told: Callable[[Create | Refusal], object]) -> None:
        """Call ``told`` with the command once it can be carried out, or with a refusal."""
        if len(self._waiting) >= MAX_COUNTED_FORKS:
            told(OVERLOADED)
            return
        self._waiting.append(_Waiting(command, None, told))
        self._next()

    def stop(self, refusal: Refusal) -> None:
        """Refuse all that are waiting, and those that come."""
        self._stopping = refusal
        self._next()

    def _next(self) -> None:
        if self._stopping is not None:
            while self._waiting:
                self._waiting.popleft().told(self._stopping)
        elif self._waiting and not self._busy:
            self._busy = True
            waiting = self._waiting.popleft()
            self._run(waiting.command, waiting.counting).addCallbacks(
                self._ran, self._bug, (waiting,), errbackArgs=(waiting,)
            )

    def _ran(self, reached: Create | Counting | Refusal, waiting: _Waiting) -> None:
        self._busy = False
        if isinstance(reached, Counting):
            waiting.counting = reached
            self._waiting.append(waiting)
        else:
            waiting.told(reached)
        self._next()

    def _bug(self, failure: Failure, waiting: _Waiting) -> None:
        self._log.failure("counting the messages of a fork's source failed", failure)
        self._ran(self._failed, waiting)
