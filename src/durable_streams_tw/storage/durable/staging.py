"""Large bodies, written in steps before the transaction that makes them visible.

A body of more than MAX_BATCH bytes would occupy the committing thread for tens of milliseconds.
Its data records are written in several commits, at the tail of the stream, where nothing reads. A
`StagedBody` record, written with the first of them, says so. The last commit moves the tail and
deletes that record: before it the stream has nothing of the body, after it everything. Other
commands of the stream wait in between, so the tail does not move. After a crash or a failed commit
the records are deleted, in steps too, before the stream is written to again.
"""

from __future__ import annotations

from collections.abc import Iterator

from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.storage.durable.record_layout import Piece, cut
from durable_streams_tw.storage.durable.transaction import BatchTransaction
from durable_streams_tw.storage.engine.tables import StagedBody
from durable_streams_tw.storage.limits import RECORD_PAYLOAD, STAGE_STEP


class Upload:
    """Command whose body is being written. ``last_start`` is the position of its last record."""

    def __init__(self, command: Append | Create, record: StagedBody, body: Body) -> None:
        self.command = command
        self.record = record
        self.last_start = record.start
        self._data = body.data
        self._pieces: Iterator[Piece] = cut(body, RECORD_PAYLOAD)

    def advance(self, transaction: BatchTransaction) -> bool:
        """Write about STAGE_STEP bytes; return whether all are written."""
        left = STAGE_STEP
        for piece in self._pieces:
            self.last_start = self.record.start + piece.start
            transaction.stage(self.record.stream_id, self.last_start, self._data, piece)
            left -= piece.stop - piece.start
            if left <= 0:
                return False
        return True
