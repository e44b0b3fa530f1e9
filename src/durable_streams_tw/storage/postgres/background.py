"""Background tasks of a node: polls of followed streams, sweep, packing, and access times.

Timers run on the reactor's thread, the work on the blocking committer's thread or a reader thread.
Every node runs all tasks. They share the work by leaving out rows that another node has locked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from durable_streams_tw.storage.access_times import AccessTimes
from durable_streams_tw.storage.commands.batches import BatchResult
from durable_streams_tw.storage.limits import SWEEP_STEP
from durable_streams_tw.storage.postgres.committer import Committer
from durable_streams_tw.storage.postgres.followed_streams import FollowedStreams
from durable_streams_tw.storage.postgres.garbage import collect_garbage
from durable_streams_tw.storage.postgres.packing import (
    BEFORE_ALL,
    PackingQueue,
    find_unpacked,
    pack,
)
from durable_streams_tw.storage.postgres.reader import Connection
from durable_streams_tw.storage.postgres.session import DatabaseUnavailable
from durable_streams_tw.storage.shared.background_timers import BackgroundTask, BackgroundTimers
from durable_streams_tw.storage.shared.executor import Executor

#: Seconds between two polls of all followed streams, and between two checks for streams with live
#: readers and a short TTL.
POLL_INTERVAL: Final = 1.0
_SHORT_INTERVAL: Final = 0.25

_DUE: Final = "SELECT id, path FROM stream WHERE due <= %s ORDER BY due LIMIT %s"
# A node that has not written for 30 s needs no hints; after a day its rows are removed.
_HEARTBEAT: Final = """UPDATE node SET heartbeat = clock_timestamp() WHERE (name, committer) IN (
  SELECT name, committer FROM node WHERE name = %s FOR UPDATE SKIP LOCKED)"""
_OTHERS: Final = """SELECT count(DISTINCT name) FROM node
WHERE name <> %s AND heartbeat > clock_timestamp() - interval '30 s'"""
_REMOVE_DEAD: Final = "DELETE FROM node WHERE heartbeat < clock_timestamp() - interval '1 day'"


class BackgroundTasks(BackgroundTimers):
    """Timers and tasks of one store.

    ``committer`` is the blocking one, ``executor`` its thread. ``poll`` reads the states of the
    followed streams among the given ids, None for all. ``end_frozen`` ends the sessions of frozen
    nodes. ``now`` returns ms since the Unix epoch. ``other_nodes`` is the number of other nodes
    that use the database, None if it is unknown.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        executor: Executor,
        committer: Committer,
        access: AccessTimes,
        followed: FollowedStreams,
        packing: PackingQueue,
        poll: Callable[[set[int] | None], None],
        end_frozen: Callable[[], object],
        now: Callable[[], int],
    ) -> None:
        BackgroundTimers.__init__(self, clock, executor, access, committer, now)
        self.other_nodes: int | None = None
        self._committer = committer
        self._followed = followed
        self._packing = packing
        # Where to look for unpacked rows of before the start, None once all are found.
        self._unpacked: tuple[int, int] | None = BEFORE_ALL
        self._poll = poll
        self._end_frozen = end_frozen
        # Accesses that readers wait for, with what to call once they are written.
        self._awaited: dict[int, list[Callable[[], None]]] = {}

    def start(self) -> None:
        """Start all timers."""
        self._running = True
        self._start_timer("sweep", 0, self._sweep)
        self._start_timer("poll", POLL_INTERVAL, self._poll_all)
        self._start_access_timer()
        self._start_timer("short", _SHORT_INTERVAL, self._write_short)

    def stop(self) -> None:
        """Stop all timers and queue the last access times."""
        self._stop_timers()
        self._write_awaited()
        self._write_all_accesses()

    def _poll_all(self) -> None:
        self._start_timer("poll", POLL_INTERVAL, self._poll_all)
        self._poll(None)
        self._end_frozen()

    # -- sweep ----------------------------------------------------------------------------------

    def _begin_sweep(self) -> None:
        self._executor.submit_write(
            BackgroundTask(self._write_heartbeat, lambda _: self._sweep_on(True))
        )

    def _write_heartbeat(self) -> None:
        """Write that this node lives, and count the others. Runs on the committer thread."""

        def heartbeat(connection: Connection) -> int:
            node = self._committer.session.node
            connection.execute(_HEARTBEAT, (node,))
            connection.execute(_REMOVE_DEAD)
            [(others,)] = connection.execute(_OTHERS, (node,)).fetchall()
            return int(others)

        try:
            self.other_nodes = self._committer.call(heartbeat)
        except DatabaseUnavailable:
            self.other_nodes = None

    def _sweep_step(self) -> BatchResult | None:
        """End expired streams, delete garbage, pack chunks. Runs on the committer thread.

        Return None if there is nothing to do. If ``more`` is set in the result, the caller has to
        run another step.
        """
        committer = self._committer
        # A deadline is due only when both the wall clock and the stream time have passed it.
        due_by = self._now() + min(0, self._access.lead())
        try:
            due = committer.call(
                lambda connection: connection.execute(_DUE, (due_by, SWEEP_STEP)).fetchall()
            )
            ended = committer.expire(due) if due else BatchResult([], [], {}, 0)
            more = committer.call(collect_garbage)
            if self._unpacked is not None:
                search = partial(find_unpacked, queue=self._packing, after=self._unpacked)
                self._unpacked = committer.call(search)
            for stream_id, first in self._packing.take().items():
                # One transaction a stream: a long one must not delay commands, or a stop.
                rest = committer.call(partial(pack, stream_id=stream_id, first=first))
                if rest is not None:
                    self._packing.put_back(stream_id, rest)
        except DatabaseUnavailable:
            return None
        # Due streams that other nodes have locked are left to them.
        more = more or bool(self._packing) or (len(due) == SWEEP_STEP and bool(ended.seconds))
        return BatchResult([], ended.changes, {}, 0, more=more, notes=ended.notes)

    # -- access times ---------------------------------------------------------------------------

    def write_access(self, stream_id: int, done: Callable[[], None]) -> None:
        """Write an access to a stream at once; call ``done`` when it is written or has failed."""
        if not self._awaited:
            self._start_timer("awaited", 0, self._write_awaited)
        self._awaited.setdefault(stream_id, []).append(done)

    def _write_awaited(self) -> None:
        awaited, self._awaited = self._awaited, {}
        if not awaited:
            return
        now = self._now()
        known = {number: self._access.last_access(number, now) for number in awaited}

        def written(_: BatchResult | None) -> None:
            for waiting in awaited.values():
                for done in waiting:
                    done()

        self._queue_accesses(known, written)

    def _write_short(self) -> None:
        self._start_timer("short", _SHORT_INTERVAL, self._write_short)
        due = self._followed.due_accesses(self._now())
        if due:
            self._queue_accesses(due, lambda _: self._poll(set(due)))
