"""Packing: small chunks of a stream are merged into larger ones.

A batch writes a row for each stream to which it appends. A row costs some 60 bytes and an index
entry, and reading many of them takes longer. Bytes keep their positions, so readers need no lock:
they see the rows of before or of after.

A node packs the streams to which it has appended. What it had counted is lost when it ends: after
its next start, it reads the index of all rows once, a part in each sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from threading import Lock
from typing import Final

from msgspec import Struct

from durable_streams_tw.protocol.limits import KIB
from durable_streams_tw.storage.limits import STATE_CACHE
from durable_streams_tw.storage.postgres.arrays import ByteaArray, Int8Array
from durable_streams_tw.storage.postgres.reader import Connection

#: Rows of a stream that this node has written since it was packed, from which it is packed again.
PACKED_ROWS: Final = 64

#: Size of rows that are merged, and of the rows that result.
_SMALL: Final = 8 * KIB
_LARGE: Final = 64 * KIB

#: Streams that one step of the sweep packs; commands of the blocking committer run in between.
_STREAMS: Final = 50

#: Rows that one transaction reads.
_STEP: Final = 1_000

#: Entries of the index that `find_unpacked` reads.
_SCAN: Final = 2_000

BEFORE_ALL: Final = 0, -1
"""Position of `find_unpacked` before all rows."""

_LOCK: Final = "SELECT 1 FROM stream WHERE id = %s FOR UPDATE SKIP LOCKED"
_ROWS: Final = """SELECT position, flags, data FROM chunk
WHERE stream_id = %s AND position >= %s ORDER BY position LIMIT %s"""
# The last row of a stream has no size here; it is not packed either.
_SMALL_ROWS: Final = f"""SELECT stream_id, max(position), min(position) FILTER (WHERE small),
  count(*) FILTER (WHERE small), count(*)
FROM (SELECT stream_id, position, {_SMALL} >
    lead(position) OVER (PARTITION BY stream_id ORDER BY position) - position AS small
  FROM (SELECT stream_id, position FROM chunk WHERE (stream_id, position) > (%s, %s)
    ORDER BY stream_id, position LIMIT {_SCAN}) page) sized
GROUP BY stream_id ORDER BY stream_id"""
_DELETE: Final = "DELETE FROM chunk WHERE stream_id = %s AND position = ANY(%s)"
_INSERT: Final = """INSERT INTO chunk (stream_id, position, flags, data)
SELECT %s, position, 0, data FROM unnest(%s, %s) AS w (position, data)"""


class NewChunks(Struct, gc=False):
    """Rows of a stream that are not packed: first position, and number."""

    first: int
    count: int = 0


class PackingQueue:
    """Streams with many new rows: committing threads add them, one thread packs them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: dict[int, NewChunks] = {}
        self._ready: dict[int, int] = {}

    def add(self, chunks: Mapping[int, NewChunks]) -> None:
        """Count rows that a commit has written, by stream id. The queue keeps the values."""
        with self._lock:
            rows = self._rows
            if len(rows) > STATE_CACHE:
                # Their rows count again once there are enough new ones.
                rows.clear()
            for stream_id, new in chunks.items():
                known = rows.setdefault(stream_id, new)
                if known is not new:
                    known.count += new.count
                if known.count >= PACKED_ROWS:
                    del rows[stream_id]
                    self._ready.setdefault(stream_id, known.first)

    def take(self, most: int = _STREAMS) -> dict[int, int]:
        """Return at most ``most`` streams to pack, with the first position that is not packed."""
        with self._lock:
            ready = dict(islice(self._ready.items(), most))
            self._ready = dict(islice(self._ready.items(), most, None))
            return ready

    def put_back(self, stream_id: int, position: int) -> None:
        """Pack a stream further from a position, after the other streams."""
        with self._lock:
            self._ready[stream_id] = position

    def __bool__(self) -> bool:
        """Return whether streams are left to pack."""
        return bool(self._ready)


def pack(connection: Connection, stream_id: int, first: int) -> int | None:
    """Merge small chunks of a stream from a position on, in one transaction.

    Return the position at which to continue, None at the end. A stream that another transaction
    has locked is left as it is. Raises `psycopg.Error`.
    """
    with connection.transaction():
        if connection.execute(_LOCK, (stream_id,)).fetchone() is None:
            return None
        rows = connection.execute(_ROWS, (stream_id, first, _STEP), binary=True).fetchall()
        merged = merge(rows)
        if merged:
            old = Int8Array([position for run in merged for position, _ in run])
            connection.execute(_DELETE, (stream_id, old))
            connection.execute(
                _INSERT,
                (
                    stream_id,
                    Int8Array([run[0][0] for run in merged]),
                    ByteaArray([b"".join([data for _, data in run]) for run in merged]),
                ),
            )
    return None if len(rows) < _STEP else rows[-1][0]


def find_unpacked(
    connection: Connection, queue: PackingQueue, after: tuple[int, int]
) -> tuple[int, int] | None:
    """Queue streams with many small rows among the next rows ``after`` a stream id and a position.

    Return where to continue, None at the end. Raises `psycopg.Error`.
    """
    found = connection.execute(_SMALL_ROWS.encode(), after).fetchall()
    for stream_id, _, first, small, _ in found:
        if small >= PACKED_ROWS:
            queue.add({stream_id: NewChunks(first, small)})
    if sum([row[4] for row in found]) < _SCAN:
        return None
    stream_id, last = found[-1][:2]
    # Read the last stream again as a whole, unless it fills the page.
    return stream_id, (last if len(found) == 1 else -1)


def merge(rows: list[tuple[int, int, bytes]]) -> list[list[tuple[int, bytes]]]:
    """Return runs of consecutive small rows to merge: position and bytes.

    ``rows`` are position, flags and bytes. Rows that hold a part of a message are left alone, and
    so is the last row.
    """
    runs: list[list[tuple[int, bytes]]] = [[]]
    size, end = 0, -1
    for position, flags, data in rows[:-1]:
        small = not flags and len(data) < _SMALL
        if not small or position != end or size + len(data) > _LARGE:
            runs.append([])
            size = 0
        if small:
            runs[-1].append((position, data))
            size += len(data)
        end = position + len(data)
    return [run for run in runs if len(run) > 1]
