"""Check of one stream's data records: no gaps, no overlaps, whole messages."""

from __future__ import annotations

from collections.abc import Iterator

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Refused
from durable_streams_tw.storage.admin.fsck.findings import Finding, Flaw, unreadable
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.codec import StreamRecord
from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import MAX_RECORD


class LogChecker:
    """Check of one stream's data records.

    ``key`` is that of the stream's record. Data records from the position ``staged`` do not belong
    to the stream yet.
    """

    def __init__(
        self, view: View, key: bytes, record: StreamRecord, deep: bool, staged: int | None
    ) -> None:
        self._staged = staged
        self._view = view
        self._key = key
        self._record = record
        self._json = content_types.is_json(record.state.content_type)
        self._deep = deep and self._json
        # Expected position of the next record, and whether it begins inside a message; None after a
        # corrupt record.
        self._position: int | None = record.state.origin
        self._torn: bool | None = False
        # Pieces of a message that spans records, None after a corrupt record.
        self._pieces: list[bytes] | None = []

    def findings(self) -> Iterator[Finding]:
        """Yield the flaws of the data records."""
        state = self._record.state
        last_start: int | None = None
        (first, stop), _ = codec.stream_ranges(state.id)
        if self._staged is not None:
            stop = codec.data_key(state.id, self._staged)
        for raw, value in self._view.scan(first, stop):
            key = bytes(raw)
            if len(key) != 17:
                yield Finding(Flaw.STRANGE_KEY, key, "the key of a data record must have 17 bytes")
                continue
            last_start = codec.position_of(key)
            try:
                flags, payload = codec.unpack_data(key, value)
            except CorruptRecord as corrupt:
                yield unreadable(corrupt)
                self._position = self._torn = self._pieces = None
                continue
            yield from self._place(key, last_start, payload, len(value))
            yield from self._messages(key, flags, payload)
        if self._position is not None and self._position != state.tail:
            yield Finding(
                Flaw.DATA, self._key, f"records end at {self._position}, the stream at {state.tail}"
            )
        if self._torn:
            yield Finding(Flaw.MESSAGES, self._key, "the last message is incomplete")
        if last_start != self._record.last_start:
            detail = f"the last record begins at {last_start}, not at {self._record.last_start}"
            yield Finding(Flaw.DATA, self._key, detail)

    def _place(self, key: bytes, start: int, payload: memoryview, size: int) -> Iterator[Finding]:
        if self._position is not None and start != self._position:
            yield Finding(Flaw.DATA, key, f"expected a record at position {self._position}")
        if not payload or size > MAX_RECORD:
            yield Finding(Flaw.DATA, key, f"invalid record size: {size} bytes")
        self._position = start + len(payload)

    def _messages(self, key: bytes, flags: int, payload: memoryview) -> Iterator[Finding]:
        before, after = flags & codec.STARTS_MID_MESSAGE, flags & codec.ENDS_MID_MESSAGE
        if flags != before | after or (flags and not self._json):
            yield Finding(Flaw.MESSAGES, key, f"flags {flags} are invalid for this stream")
        if self._torn is not None and self._torn != bool(before):
            yield Finding(
                Flaw.MESSAGES, key, "it does not continue the message of the record before"
            )
        self._torn = bool(after)
        if self._json and not after and bytes(payload[-1:]) != b",":
            yield Finding(Flaw.MESSAGES, key, "it does not end at a message boundary")
        elif self._deep:
            yield from self._parse(key, before, after, payload)

    def _parse(self, key: bytes, before: int, after: int, payload: memoryview) -> Iterator[Finding]:
        if not before:
            self._pieces = []
        if self._pieces is None:
            return
        self._pieces.append(bytes(payload))
        if after:
            return
        stored = b"".join(self._pieces)
        self._pieces = []
        try:
            messages = json_mode.split(json_mode.document(stored))
        except Refused as refused:
            yield Finding(Flaw.MESSAGES, key, refused.refusal.detail)
            return
        if before and len(messages) != 1:
            yield Finding(
                Flaw.MESSAGES, key, f"{len(messages)} messages in records for one message"
            )
