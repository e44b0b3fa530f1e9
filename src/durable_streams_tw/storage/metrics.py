"""Counters and histograms of a store.

The store updates them on the reactor's thread, once per batch, to keep the cost per request low.
`telemetry.metrics` renders them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from time import perf_counter
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.storage.api import Change, Command, MeasuredBatch, Outcome, body_size

T = TypeVar("T")

#: Upper bounds of durations in seconds, from a cached write to a disk that hangs.
SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

#: Upper bounds of the number of commands per batch.
SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)

_DUPLICATE: Final = attrgetter("duplicate")
_KINDS: Final[dict[type, str]] = {
    Append: "append",
    Create: "create",
    Delete: "delete",
    Appended: "append",
    Created: "create",
    Deleted: "delete",
}
_OTHER: Final = "subscription"
_APPENDED: Final = ("append", "done")
_ONLY_APPENDED: Final = frozenset((Appended,))


class Histogram:
    """Histogram with fixed upper bounds.

    ``counts`` has one more entry than ``bounds``, for values above the last bound.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Add a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class StoreMetrics:
    """Metrics of one store since its start; a `StoreObserver`.

    ``commands`` is keyed by kind and result, ``sizes`` (bytes of bodies) by result: ``done``,
    ``duplicate``, ``refused`` (the client's fault) or ``failed`` (the server's). ``refusals`` is
    keyed by problem. ``commits`` counts batches that changed something, ``failures`` batches that
    could not be written.
    """

    def __init__(self) -> None:
        self.commands: Counter[tuple[str, str]] = Counter()
        self.sizes: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.commits = 0
        self.failures = 0
        self.batch_size = Histogram(SIZES)
        self.commit_seconds = Histogram(SECONDS)
        self.batch_seconds = Histogram(SECONDS)
        self.queue_seconds = Histogram(SECONDS)
        self.read_wait_seconds = Histogram(SECONDS)

    def _count(
        self, commands: Sequence[Command], outcomes: Sequence[Outcome], changes: Sequence[Change]
    ) -> None:
        """Count commands by kind and result."""
        if _ONLY_APPENDED.issuperset(map(type, outcomes)) and not any(map(_DUPLICATE, outcomes)):
            # Most batches; the general case takes as long as carrying out a small batch.
            self.commands[_APPENDED] += len(outcomes)
            self.sizes["done"] += sum([len(change.data) for change in changes])
            return
        kinds = Counter(map(type, outcomes))
        refused = kinds.pop(Refusal, 0)
        duplicates = sum([o.duplicate for o in outcomes if isinstance(o, Appended)])
        counted = self.commands
        for kind, number in kinds.items():
            counted[_KINDS.get(kind, _OTHER), "done"] += number
        if duplicates:
            counted["append", "done"] -= duplicates
            counted["append", "duplicate"] += duplicates
            self.sizes["duplicate"] += sum(
                [
                    body_size(command)
                    for command, outcome in zip(commands, outcomes, strict=True)
                    if isinstance(outcome, Appended) and outcome.duplicate
                ]
            )
        if refused:
            for command, outcome in zip(commands, outcomes, strict=True):
                if isinstance(outcome, Refusal):
                    self.record_refusal(command, outcome)
        self.sizes["done"] += sum([len(change.data) for change in changes])

    def record_command(self, command: Command, outcome: Outcome, changes: Sequence[Change]) -> None:
        """Record one command that was carried out alone. Fast for appends."""
        if isinstance(outcome, Appended) and not outcome.duplicate:
            self.commands[_APPENDED] += 1
            for change in changes:
                self.sizes["done"] += len(change.data)
        else:
            self._count((command,), (outcome,), changes)

    def record_batch(self, batch: MeasuredBatch) -> None:
        """Record a batch and its durations."""
        self._count(batch.commands, batch.outcomes, batch.changes)
        self.batch_size.add(len(batch.commands))
        self.batch_seconds.add(batch.batch_seconds)
        if batch.queue_seconds:
            self.queue_seconds.add(batch.queue_seconds)
        if batch.commit_seconds:
            self.commits += 1
            self.commit_seconds.add(batch.commit_seconds)
        self.failures += batch.failed

    def record_refusal(self, command: Command, refusal: Refusal) -> None:
        """Record a command that was refused, in a batch or before."""
        problem = refusal.problem
        result = "refused" if problem.status < 500 else "failed"
        self.commands[_KINDS.get(type(command), _OTHER), result] += 1
        self.sizes[result] += body_size(command)
        self.refusals[problem.slug] += 1

    def time_read(
        self, submit: Callable[[Callable[[], Any]], Deferred[Any]], function: Callable[[], T]
    ) -> Deferred[T]:
        """Submit a function to the reader threads and record how long it waited for one."""
        submitted = perf_counter()

        def run() -> tuple[float, T]:
            return perf_counter() - submitted, function()

        def record(timed: tuple[float, T]) -> T:
            waited, result = timed
            self.read_wait_seconds.add(waited)
            return result

        return submit(run).addCallback(record)
