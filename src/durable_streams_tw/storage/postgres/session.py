"""Session of a committer: its connection, its row in `node`, and the outcome of a batch in doubt.

Each batch first writes its number into the row of its committer. If the connection breaks during
the commit, the next session locks that row: PostgreSQL grants the lock only once the old
transaction has ended, and then the number tells whether it was committed. The session then commits
a change of its own. After that, a synchronous standby has everything that the row has shown.

A server that was promoted or restored continues on another timeline, and may lack commits that
clients and caches have seen. The first session there raises the least id of the store, so that
bytes appended from now on belong to other incarnations than lost ones at the same positions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic, sleep
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from twisted.logger import Logger

from durable_streams_tw import __version__
from durable_streams_tw.storage.postgres import arrays
from durable_streams_tw.storage.postgres.connection import (
    DatabaseSettings,
    advisory_class,
    connect,
    reason_of,
)
from durable_streams_tw.storage.postgres.deadline_guard import DeadlineGuard
from durable_streams_tw.storage.postgres.pipeline import Pipeline, PreparedStatements
from durable_streams_tw.storage.postgres.reader import Connection
from durable_streams_tw.storage.postgres.schema import ID_BLOCK

#: Time in ms for which a batch waits for a row.
ROW_TIMEOUT: Final = 2_000

#: Seconds for which claiming the row may take longer than waiting for its lock.
_CLAIM_MARGIN: Final = 2.0

#: Pause between attempts to connect, in seconds.
_PAUSE: Final = 0.1

_LOCK_ROW: Final = "SELECT batch FROM node WHERE name = %s AND committer = %s FOR UPDATE"
_WRITE_ROW: Final = """INSERT INTO node (name, committer, batch, heartbeat, version)
VALUES (%s, %s, %s, clock_timestamp(), %s)
ON CONFLICT (name, committer)
DO UPDATE SET batch = EXCLUDED.batch, heartbeat = EXCLUDED.heartbeat"""
_HISTORY: Final = """SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' ||
  substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"""
_KNOWN_HISTORY: Final = "SELECT history FROM registry FOR UPDATE"
# Ids of a lost block may have been given out: all later ones are above the clock's.
_RAISE_IDS: Final = "SELECT setval('ids', greatest(nextval('ids'), %s))"
_SET_LINEAGE: Final = "UPDATE registry SET history = %s, lineage = nextval('ids')"
_SET_HISTORY: Final = "UPDATE registry SET history = %s"


class DatabaseUnavailable(Exception):
    """Failure to carry out a batch within the timeout of the settings; nothing was written."""


class OutcomeUnknown(Exception):
    """Failure to find out within the timeout of the settings whether a batch was committed."""


class NodeSession:
    """Connection of one committer of a node, opened and opened again as needed.

    ``number`` is that of the last committed batch. ``unavailable`` is true from the end of the
    timeout until the database answers again. ``now`` returns ms since the Unix epoch.
    All methods run on the committer's thread.
    """

    _log = Logger()

    def __init__(
        self,
        settings: DatabaseSettings,
        node: str,
        committer: int,
        now: Callable[[], int],
        guard: DeadlineGuard,
    ) -> None:
        self.node = node
        self.committer = committer
        self.number = 0
        self.advisory = advisory_class(settings.schema)
        self.reconnects = 0
        self._settings = settings
        self._now = now
        self._guard = guard
        self._connection: Connection | None = None
        self._prepared = PreparedStatements()
        self.unavailable = False
        # Whether the commit of the last batch has been sent and not been answered.
        self._in_doubt = False
        self._warnings: list[str] = []
        self._next_id = self._last_id = 0

    def deadline(self) -> float:
        """Return until when a batch that begins now waits for the database.

        If the database has been unavailable for longer than the timeout, one attempt is made.
        """
        return monotonic() + (0 if self.unavailable else self._settings.timeout)

    # -- connection -----------------------------------------------------------------------------

    def open(self, deadline: float) -> tuple[Connection, bool | None]:
        """Return the connection, and whether a batch in doubt was committed; None if there is none.

        Retry until ``deadline`` (monotonic seconds). Raises `DatabaseUnavailable`, and
        `OutcomeUnknown` if a batch stays in doubt.
        """
        connection = self._connection
        if connection is not None and not connection.closed:
            return connection, None
        while True:
            try:
                return self._connect(deadline)
            except psycopg.Error as error:
                if monotonic() >= deadline:
                    raise self._give_up(error) from None
            sleep(_PAUSE)

    def _connect(self, deadline: float) -> tuple[Connection, bool | None]:
        connection = connect(self._settings)
        try:
            arrays.register(connection)
            connection.add_notice_handler(self._noticed)
            with self._guard.limit(connection, max(deadline - monotonic(), 1) + _CLAIM_MARGIN):
                connection.execute(f"SET lock_timeout = {ROW_TIMEOUT}".encode())
                committed = self._claim(connection, deadline)
        except BaseException:
            connection.close()
            raise
        self._connection, self._prepared = connection, PreparedStatements()
        if self.unavailable:
            self._log.info("The database is available again")
        self.unavailable = self._in_doubt = False
        return connection, committed

    def _give_up(self, error: psycopg.Error) -> Exception:
        if not self.unavailable:
            self._log.error("The database is unavailable: {reason}", reason=reason_of(error))
        self.unavailable = True
        in_doubt, self._in_doubt = self._in_doubt, False
        return OutcomeUnknown(error) if in_doubt else DatabaseUnavailable(error)

    def _claim(self, connection: Connection, deadline: float) -> bool | None:
        """Write the committer's row; return whether the batch in doubt was committed.

        Return None if none is in doubt. Raises `psycopg.Error`.
        """
        history = self._history(connection)
        timeout = max(int(1000 * (deadline - monotonic())), 1000)
        connection.execute("BEGIN")
        connection.execute(f"SET LOCAL lock_timeout = {timeout}".encode())
        row = connection.execute(_LOCK_ROW, (self.node, self.committer)).fetchone()
        committed: bool | None = None
        if self._in_doubt:
            committed = row is not None and row[0] == self.number + 1
        if row is not None and row[0] < self.number:
            self._log.error(
                "The database has lost batches that it had acknowledged: batch {had} of this node "
                "was the last one, now it is {found}",
                had=self.number,
                found=row[0],
            )
        number = 0 if row is None else row[0]
        connection.execute(_WRITE_ROW, (self.node, self.committer, number, __version__))
        self._compare(connection, history)
        self._warnings.clear()
        connection.execute("COMMIT")
        if self._warnings:
            raise psycopg.OperationalError(self._warnings[0])
        self.number = number
        return committed

    def _history(self, connection: Connection) -> str | None:
        """Return the id and timeline of the server, None if the role may not read them."""
        try:
            row = connection.execute(_HISTORY).fetchone()
        except (
            psycopg.errors.InsufficientPrivilege,
            psycopg.errors.UndefinedFunction,
            psycopg.errors.FeatureNotSupported,
        ):
            return None
        return None if row is None else row[0]

    def _compare(self, connection: Connection, history: str | None) -> None:
        if history is None:
            return
        row = connection.execute(_KNOWN_HISTORY).fetchone()
        assert row is not None, "a migration has made the row"
        if row[0] == history:
            return
        if not row[0]:
            connection.execute(_SET_HISTORY, (history,))
            return
        self._log.warn(
            "The database was restored or has failed over: offsets of bytes that it may have lost "
            "are no longer accepted"
        )
        connection.execute(_RAISE_IDS, (self._now() << 20,))
        connection.execute(_SET_LINEAGE, (history,))

    def _noticed(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warnings.append(diagnostic.message_primary or "")

    def drop(self) -> None:
        """Close the connection, because it is broken or may be."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self.reconnects += 1
            connection.close()

    def close(self) -> None:
        """Remove the committer's row and close the connection."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if not self._in_doubt:
                with self._guard.limit(connection, self._settings.timeout):
                    connection.execute(
                        "DELETE FROM node WHERE name = %s AND committer = %s",
                        (self.node, self.committer),
                    )
        except psycopg.Error as error:
            self._log.error("Leaving the database failed: {reason}", reason=error)
        connection.close()

    def limit(self, more: float = 0.0) -> AbstractContextManager[None]:
        """Bound the time of a batch, or of other work, by the timeout and ``more`` seconds."""
        assert self._connection is not None, "the session is open"
        return self._guard.limit(self._connection, self._settings.timeout + more)

    # -- a batch --------------------------------------------------------------------------------

    def pipeline(self) -> Pipeline:
        """Return a pipeline on the connection."""
        assert self._connection is not None, "the session is open"
        return Pipeline(self._connection, self._prepared)

    def committing(self) -> None:
        """Mark the batch as in doubt: its commit is about to be sent."""
        self._in_doubt = True
        self._warnings.clear()

    def committed(self) -> None:
        """Mark the batch as committed.

        Raises `psycopg.OperationalError` if the server has warned that the wait for its standby was
        cancelled: the batch is still in doubt then.
        """
        if self._warnings:
            raise psycopg.OperationalError(self._warnings[0])
        self._in_doubt = False
        self.number += 1

    def roll_back(self) -> None:
        """End a transaction that was not committed. Keeps the connection if it works."""
        self._in_doubt = False
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                # psycopg would deallocate all prepared statements after it.
                pipeline = self.pipeline()
                pipeline.add("ROLLBACK")
                pipeline.run()
        except psycopg.Error:
            self.drop()

    def next_id(self, floor: int) -> int:
        """Return an id above ``floor`` that no node has ever used. Raises `psycopg.Error`."""
        if not floor < self._next_id < self._last_id:
            connection = self._connection
            assert connection is not None, "ids are taken in a transaction"
            row: tuple[Any, ...] | None = connection.execute("SELECT nextval('ids')").fetchone()
            assert row is not None, "a sequence has a value"
            self._next_id = row[0]
            self._last_id = row[0] + ID_BLOCK
        self._next_id += 1
        return self._next_id - 1
