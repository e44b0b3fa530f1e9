"""PostgreSQL store: `IStreamStore` over a database that any number of nodes share."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.storage.api import Duties, KeyringStorage
from durable_streams_tw.storage.durable.executor import Executor
from durable_streams_tw.storage.limits import MAX_PRODUCERS
from durable_streams_tw.storage.postgres.connection import (
    DatabaseSettings,
    check_durability,
    connect,
)
from durable_streams_tw.storage.postgres.duties import SubscriptionDuties
from durable_streams_tw.storage.postgres.keyring import KeyringTable
from durable_streams_tw.storage.postgres.migrations import migrate

T = TypeVar("T")


class PostgresStore:
    """Store that keeps streams in PostgreSQL and shares them with other nodes.

    ``clock`` runs the background tasks. ``executor`` has the committer thread and the reader
    threads, ``patient`` a second committer thread for commands on streams that other nodes are
    writing (both a `ThreadExecutor` in a server). ``now`` and ``lead`` are those of a
    `clocks.StreamTime`; the default is the wall clock. ``max_producers`` is the number of producers
    that a stream remembers at least. With ``listen`` off no thread waits for notifications of other
    nodes, whose changes are then found once a second.

    `open` blocks while it connects, creates or migrates the tables and reads the guarantees of the
    server; it raises `StoreUnusable`. No other method waits for the database on the reactor's
    thread. ``node`` is the unique name of this node.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        clock: IReactorTime,
        executor: Executor,
        patient: Executor,
        *,
        now: Callable[[], int] | None = None,
        lead: Callable[[], int] = lambda: 0,
        max_producers: int = MAX_PRODUCERS,
        listen: bool = True,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._executor = executor
        self._patient = patient
        self._now = now or _wall_clock
        self._lead = lead
        self._max_producers = max_producers
        self._listen = listen
        self.node = f"{settings.node}-{secrets.token_hex(4)}"
        self._sessions = threading.local()
        self.duties: Duties | None = SubscriptionDuties(self._in_session, self.node)
        self.keyring: KeyringStorage | None = KeyringTable(settings, self._in_session)

    def open(self) -> None:
        """Connect, check the server, and create or migrate the tables."""
        with connect(self._settings) as connection:
            check_durability(connection, self._settings)
            migrate(connection, self._settings, self._now())

    def _in_session(
        self, function: Callable[[psycopg.Connection[Any]], T]
    ) -> Deferred[T | Refusal]:
        """Call a function with a connection, on a reader thread; refuse if the database is away."""

        def call() -> T | Refusal:
            connection: psycopg.Connection[Any] | None = getattr(self._sessions, "open", None)
            try:
                if connection is None or connection.closed:
                    connection = self._sessions.open = connect(self._settings)
                return function(connection)
            except psycopg.Error as error:
                return Refusal(
                    Problem.STORAGE_UNAVAILABLE, f"the database failed: {type(error).__name__}"
                )

        return self._executor.submit_read(call)


def _wall_clock() -> int:
    """Return the time in ms since the Unix epoch."""
    return time.time_ns() // 1_000_000
