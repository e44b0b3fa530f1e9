"""What a store has done, in plain numbers.

Counted once a batch, on the reactor's thread, when its outcomes are told: nothing is counted for
each request but what adding up a list costs. Whoever shows the numbers reads them when they are
asked for; nothing here knows how they are shown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from time import perf_counter
from typing import Any, Final, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.storage.api import Change, Command, Outcome

T = TypeVar("T")

#: Upper bounds of times, in seconds: from a cached write to a disk that hangs.
SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

#: Upper bounds of how many commands share a commit.
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


class Histogram:
    """How often values were how large. ``counts`` has one number more than ``bounds``: what is
    above the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class StoreMetrics:
    """The numbers of one store since it was made.

    ``commands`` and ``sizes`` (bytes of bodies) go by what was asked and what came of it:
    ``done``, ``duplicate``, ``refused`` where the client has to change something, ``failed``
    where the server could not. ``refusals`` go by problem. ``commits`` and ``failures`` are
    batches that changed something, and that could not be written.
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

    def count(
        self, commands: Sequence[Command], outcomes: Sequence[Outcome], changes: Sequence[Change]
    ) -> None:
        """Count what came of a batch."""
        kinds = Counter(map(type, outcomes))
        refused = kinds.pop(Refusal, 0)
        appended = kinds.get(Appended, 0)
        duplicates = 0
        if appended == len(outcomes):
            duplicates = sum(map(_DUPLICATE, outcomes))
        elif appended:
            duplicates = sum([o.duplicate for o in outcomes if isinstance(o, Appended)])
        counted = self.commands
        for kind, number in kinds.items():
            counted[_KINDS.get(kind, _OTHER), "done"] += number
        if duplicates:
            counted["append", "done"] -= duplicates
            counted["append", "duplicate"] += duplicates
            self.sizes["duplicate"] += sum(
                [
                    _size(command)
                    for command, outcome in zip(commands, outcomes, strict=True)
                    if isinstance(outcome, Appended) and outcome.duplicate
                ]
            )
        if refused:
            for command, outcome in zip(commands, outcomes, strict=True):
                if isinstance(outcome, Refusal):
                    self.refused(command, outcome)
        self.sizes["done"] += sum([len(change.data) for change in changes])

    def one(self, command: Command, outcome: Outcome, changes: Sequence[Change]) -> None:
        """Count what came of one command: the same, at less cost where it is an append."""
        if isinstance(outcome, Appended) and not outcome.duplicate:
            self.commands[_APPENDED] += 1
            for change in changes:
                self.sizes["done"] += len(change.data)
        else:
            self.count((command,), (outcome,), changes)

    def batch(
        self,
        commands: Sequence[Command],
        outcomes: Sequence[Outcome],
        changes: Sequence[Change],
        waited: float,
        seconds: float,
        on_disk: float,
        failed: bool,
    ) -> None:
        """Count a batch, and how long its oldest command waited, all of it took, its commit
        took."""
        self.count(commands, outcomes, changes)
        self.batch_size.add(len(commands))
        self.batch_seconds.add(seconds)
        if waited:
            self.queue_seconds.add(waited)
        if on_disk:
            self.commits += 1
            self.commit_seconds.add(on_disk)
        self.failures += failed

    def refused(self, command: Command, refusal: Refusal) -> None:
        """Count a command that was refused, in a batch or before it came to one."""
        problem = refusal.problem
        result = "refused" if problem.status < 500 else "failed"
        self.commands[_KINDS.get(type(command), _OTHER), result] += 1
        self.sizes[result] += _size(command)
        self.refusals[problem.slug] += 1

    def timed(
        self, read: Callable[[Callable[[], Any]], Deferred[Any]], look: Callable[[], T]
    ) -> Deferred[T]:
        """What ``read`` finds with ``look``; how long it waited for its turn is counted."""
        asked = perf_counter()

        def timed() -> tuple[float, T]:
            return perf_counter() - asked, look()

        def came(found: tuple[float, T]) -> T:
            self.read_wait_seconds.add(found[0])
            return found[1]

        return read(timed).addCallback(came)


def _size(command: Command) -> int:
    body = command.body if isinstance(command, Append | Create) else None
    return 0 if body is None else len(body.data)


class StoreStats(Struct, frozen=True):
    """How a store on a disk stands, at one moment. Sizes are bytes.

    ``queued`` and ``queued_size`` wait for the committer, ``journaled`` bytes are
    on the disk and not in the map yet. ``map_used`` is what pages with data
    take, ``map_size`` what the map can hold at most, ``file_size`` the file, ``disk_free`` what
    the file system has left. ``readers`` are open snapshots, and ``reader_lag`` how many commits
    the oldest of them is behind: no page freed since can be used again.
    """

    queued: int
    queued_size: int
    journaled: int
    map_used: int
    map_size: int
    file_size: int
    disk_free: int
    readers: int
    reader_lag: int
