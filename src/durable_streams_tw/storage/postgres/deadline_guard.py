"""Bound on waits for the database: a connection whose answer is late is cut.

A statement may wait for ever: COMMIT for a synchronous standby that is unavailable, any
statement for a server that is frozen. libpq then waits too, and so does the thread that called it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from time import monotonic

import psycopg
from twisted.logger import Logger

from durable_streams_tw.storage.postgres.reader import Connection


class DeadlineGuard:
    """Connections in use, each with the monotonic time until which its statements may take."""

    _log = Logger()

    def __init__(self) -> None:
        self._lock = Lock()
        self._limits: dict[object, tuple[Connection, float]] = {}

    @contextmanager
    def limit(self, connection: Connection, seconds: float) -> Iterator[None]:
        """Bound the time of the ``with`` block, which raises `psycopg.Error` if it is cut.

        The connection must not be closed within the block.
        """
        mark = object()
        self._limits[mark] = connection, monotonic() + seconds
        try:
            yield
        finally:
            # Not while it is being cut: its file descriptor could be another connection's by then.
            with self._lock:
                del self._limits[mark]

    def cut_late(self) -> None:
        """Cut the connections that are late. A timer calls this on the reactor's thread."""
        now = monotonic()
        with self._lock:
            for connection, until in list(self._limits.values()):
                if now > until:
                    self._log.warn("The database does not answer in time: a connection is cut")
                    with suppress(OSError, psycopg.Error):
                        _shut_down(connection.fileno())


def _shut_down(descriptor: int) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        copy.shutdown(socket.SHUT_RDWR)
