"""Reader of the owner's LMDB file in a front process, for the pieces of long responses.

LMDB has all bytes up to the last checkpoint of the write-ahead log, and bytes at a position never
change. So a front process can read these pieces itself, on a snapshot of LMDB of its own, which
spares the owner the reading and both processes the copying through a socket.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import lmdb
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from durable_streams_tw.storage.durable.reader import ViewReader, load_state
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.engine.lmdb import LMDBSnapshot, open_environment
from durable_streams_tw.storage.errors import CorruptRecord, StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE
from durable_streams_tw.storage.limits import READ_THREADS

_log = Logger()


class CheckpointReader:
    """Reader of the LMDB file in a data directory that another process has open.

    ``in_thread(function, *arguments)`` calls a function on a worker thread. All methods are called
    on the reactor's thread.
    """

    def __init__(self, directory: str, in_thread: Callable[..., Deferred[Any]]) -> None:
        self._directory = directory
        self._in_thread = in_thread
        self._environment: lmdb.Environment | None = None
        self._file: tuple[int, int] | None = None
        self._reads = 0

    def refresh(self) -> None:
        """Open the file, or the one that has replaced it, unless reads are in progress."""
        if self._reads:
            return
        try:
            file = os.stat(os.path.join(self._directory, DATA_FILE))
            if self._environment is not None and self._file == (file.st_dev, file.st_ino):
                return
            # LMDB does not allow two environments of one file in a process.
            self.close()
            self._environment = open_environment(
                self._directory,
                self._directory,
                readonly=True,
                create=False,
                max_spare_txns=READ_THREADS,
            )
        except (OSError, StoreUnusable) as error:
            _log.warn("Long responses are read by the owner of the store: {error}", error=error)
        else:
            self._file = file.st_dev, file.st_ino

    def read_range(self, stream_id: int, start: int, stop: int) -> Deferred[bytes | None] | None:
        """Return the stored bytes ``[start, stop)`` of a stream.

        The result is None if the owner has to be asked.
        """
        if self._environment is None:
            return None
        self._reads += 1
        read = self._in_thread(_read_range, self._environment, stream_id, start, stop)
        return read.addBoth(self._read_done)

    def close(self) -> None:
        """Close the file. No thread may be reading it."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _read_done(self, result: Any) -> Any:
        self._reads -= 1
        return result


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
