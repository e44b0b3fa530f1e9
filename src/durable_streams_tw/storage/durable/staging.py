"""Staging of large bodies: data records written in steps before the commit that appends them.

Writing a body of more than MAX_BATCH bytes in one commit would occupy the committer thread for
tens of milliseconds. Instead, several commits write its data records beyond the tail of the stream,
where readers do not look. The first of these commits also writes a `StagedBody` record. The last
one moves the tail and deletes that record, so the body becomes visible as a whole. Other commands
of the stream wait in between, so the tail does not move. After a crash or a failed commit, the
committer deletes the data records, also in steps, before it writes to the stream again.
"""

from __future__ import annotations

from collections.abc import Iterator

from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.storage.durable.transaction import BatchTransaction
from durable_streams_tw.storage.engine.tables import StagedBody
from durable_streams_tw.storage.limits import RECORD_PAYLOAD, STAGE_STEP
from durable_streams_tw.storage.shared.record_layout import Piece, cut


class Upload:
    """Command whose body is being staged. ``last_start`` is the position of its last record."""

    def __init__(self, command: Append | Create, record: StagedBody, body: Body) -> None:
        self.command = command
        self.record = record
        self.last_start = record.start
        self._data = body.data
        self._pieces: Iterator[Piece] = cut(body, RECORD_PAYLOAD)

    def advance(self, transaction: BatchTransaction) -> bool:
        """Write about STAGE_STEP bytes of the body; return whether all of it is written."""
        left = STAGE_STEP
        for piece in self._pieces:
            self.last_start = self.record.start + piece.start
            transaction.stage(self.record.stream_id, self.last_start, self._data, piece)
            left -= piece.stop - piece.start
            if left <= 0:
                return False
        return True
