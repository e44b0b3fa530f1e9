"""Reader of the owner's LMDB file in a front process, for the pieces of long responses.

LMDB has all bytes up to the last checkpoint of the write-ahead log, and bytes at a position never
change. So a front process can read these pieces itself, on a snapshot of LMDB of its own, which
spares the owner the reading and both processes the copying through a socket.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import lmdb
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from durable_streams_tw.storage.data_dir import shared_hold
from durable_streams_tw.storage.durable.reader import ViewReader, load_state
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.engine.lmdb import LMDBSnapshot, open_environment
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable
from durable_streams_tw.storage.limits import READ_THREADS

_log = Logger()


class CheckpointReader:
    """Reader of the LMDB file in a data directory that another process owns.

    While the file is open, `shared_hold` keeps `compact` and `restore` from replacing it.
    ``in_thread(function, *arguments)`` calls a function on a worker thread. All methods are called
    on the reactor's thread.
    """

    def __init__(self, directory: str, in_thread: Callable[..., Deferred[Any]]) -> None:
        self._directory = directory
        self._in_thread = in_thread
        self._environment: lmdb.Environment | None = None
        self._holds = ExitStack()

    def open(self) -> None:
        """Open the file if it is not open. Log a failure; the next call tries again."""
        if self._environment is not None:
            return
        try:
            with ExitStack() as holds:
                holds.enter_context(shared_hold(self._directory))
                environment = open_environment(
                    self._directory,
                    self._directory,
                    readonly=True,
                    create=False,
                    max_spare_txns=READ_THREADS,
                )
                holds.callback(environment.close)
                self._holds = holds.pop_all()
        except StoreUnusable as error:
            _log.warn("Long responses are read by the owner of the store: {error}", error=error)
        else:
            self._environment = environment

    def read_range(self, stream_id: int, start: int, stop: int) -> Deferred[bytes | None] | None:
        """Return the stored bytes ``[start, stop)`` of a stream.

        None, now or as the result, means that the owner has to be asked.
        """
        if self._environment is None:
            return None
        return self._in_thread(_read_range, self._environment, stream_id, start, stop)

    def close(self) -> None:
        """Close the file. No thread may be reading it."""
        self._environment = None
        self._holds.close()


def _read_range(
    environment: lmdb.Environment, stream_id: int, start: int, stop: int
) -> bytes | None:
    """Read a range on a snapshot of the last checkpoint. Runs on a worker thread."""
    try:
        with environment.begin(buffers=True) as transaction:
            view = LMDBSnapshot(transaction, 0)
            state = load_state(view, stream_id)
            if state is None or state.deleted or stop > state.tail:
                return None
            return ViewReader(view).gather(state, start, stop, stop - start)
    except (CorruptRecord, EngineFailed, lmdb.Error):
        # The owner meets the same error, and reports it.
        return None
