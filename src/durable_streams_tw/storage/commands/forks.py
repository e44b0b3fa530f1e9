"""Counting of messages after a fork's offset, for Stream-Fork-Sub-Offset (PROTOCOL.md §4.2).

The committer counts messages only if at most FORK_INLINE_COUNT bytes follow the fork's offset.
Otherwise `ForkCounter` counts them before the commit, in steps of bounded size on reader threads,
and the transaction checks that the source is still the stream whose messages were counted. Bytes
at a position never change, so a finished count stays correct.
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
from durable_streams_tw.storage import limits
from durable_streams_tw.storage.commands.batches import BUG

Run = tuple[int, bytes | None]
"""Stored whole messages: size in bytes, and the bytes. The bytes are None for a single message that
is larger than a record."""

OVERLOADED = Refusal(
    Problem.OVERLOADED,
    "too many forks are waiting for the messages of their sources to be counted",
    ((b"Retry-After", b"1"),),
)


class Reader(Protocol):
    """Read access that counting requires: a transaction or a snapshot."""

    def stream_at(self, path: str) -> StreamState | None:
        """Return the stream at a path, or None."""

    def stream(self, stream_id: int) -> StreamState | None:
        """Return the stream with an id, or None."""

    def is_boundary(self, state: StreamState, position: int) -> bool:
        """Return whether a position is a message boundary."""

    def message_runs(self, state: StreamState, start: int) -> Iterator[Run]:
        """Yield the stored messages from a boundary to the tail, one record at a time."""


class Counting(Struct, frozen=True):
    """Progress of a count of a source's messages that began at the position ``start``."""

    source_id: int
    start: int
    step: forks.RemainingMessages


def needs_count(command: Create) -> bool:
    """Return whether messages may have to be counted before a command is carried out."""
    fork = command.fork
    return fork is not None and fork.sub_offset > 0 and fork.counted is None


def fork(reader: Reader, source: StreamState, command: Create, now: int) -> Created | Refusal:
    """Return the outcome of forking a usable source; write nothing.

    The caller passes the transaction of the command as ``reader``. Return `forks.UNCOUNTED` if
    more than FORK_INLINE_COUNT bytes have to be counted first. ``now`` is in ms since the Unix
    epoch.
    """
    request = command.fork
    assert request is not None
    point = forks.locate_fork_point(source, command)
    if isinstance(point, forks.RemainingMessages):
        counted = request.counted
        if counted is not None and counted.of(source.id, point.position):
            point = counted.position
        elif source.tail - point.position > limits.FORK_INLINE_COUNT:
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

    Return the command if it is ready for the committer, a `Counting` if messages are left to
    count, or a refusal. ``counting`` is the result of the previous step, None for the first. The
    durable store calls this on a reader thread.
    """
    request = command.fork
    assert request is not None
    if counting is None:
        source = reader.stream_at(request.source)
        if source is None or source.deleted or reader.stream_at(command.path) is not None:
            # The transaction decides this command without a count.
            return command
        point = forks.locate_fork_point(source, command)
        if not isinstance(point, forks.RemainingMessages):
            return command
        if source.tail - point.position <= limits.FORK_INLINE_COUNT:
            return command
        if not reader.is_boundary(source, point.position):
            return forks.TORN
        counting = Counting(source.id, point.position, point)
    else:
        source = reader.stream(counting.source_id)
        if source is None:
            return command
    reached = _count(reader, source, counting.step, limits.FORK_COUNT_STEP)
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
            limit -= size + limits.FORK_COUNT_COST
            if limit <= 0 and step.position < source.tail:
                return step
    return forks.OVERSHOOT


class _Waiting(Struct):
    command: Create
    counting: Counting | None
    callback: Callable[[Create | Refusal], object]


class ForkCounter:
    """Queue of forks whose messages are being counted, one step for each in turn.

    Only one step runs at a time, so that counting occupies at most one reader thread. ``run``
    calls `count_some` with a command and its progress on a reader thread, and returns a Deferred
    of the result. A command whose step raises is refused. Call all methods on the reactor's thread.
    """

    _log = Logger()

    def __init__(
        self,
        run: Callable[[Create, Counting | None], Deferred[Create | Counting | Refusal]],
    ) -> None:
        self._run = run
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._stopping: Refusal | None = None

    def count(self, command: Create, callback: Callable[[Create | Refusal], object]) -> None:
        """Call ``callback`` with the command once it is ready for the committer, or with a refusal.

        Refuse with `OVERLOADED` if MAX_COUNTED_FORKS commands are waiting.
        """
        if len(self._waiting) >= limits.MAX_COUNTED_FORKS:
            callback(OVERLOADED)
            return
        self._waiting.append(_Waiting(command, None, callback))
        self._next()

    def stop(self, refusal: Refusal) -> None:
        """Refuse all waiting commands, and all later ones."""
        self._stopping = refusal
        self._next()

    def _next(self) -> None:
        if self._stopping is not None:
            while self._waiting:
                self._waiting.popleft().callback(self._stopping)
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
            waiting.callback(reached)
        self._next()

    def _bug(self, failure: Failure, waiting: _Waiting) -> None:
        self._log.failure("Counting the messages of a fork's source failed", failure)
        self._ran(BUG, waiting)
