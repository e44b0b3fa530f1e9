"""Walking the subscriptions of a store.

1. Each record's key says what it holds; numbers are of no stream and no other subscription.
2. A subscription is in one phase at a time. While it is idle it has no cursors; while it is
   waking or offered it has at least one.
3. It counts the streams that it names.
4. A cursor is of a stream that is there, that the subscription is linked to, and that has more
   than is acknowledged. Wake streams have none. Until the fan-out of a stream's end is done, its
   cursors may still be there.
5. A fan-out has the key of its stream.
6. What belongs to a subscription belongs to one that is there, or waits to be freed.

Keeps the numbers of all subscriptions and the names of their wake streams in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from durable_streams_tw.protocol.errors import Refused
from durable_streams_tw.protocol.subscriptions.globs import Glob, matches, parse_glob
from durable_streams_tw.protocol.subscriptions.state import Cursor, FanOutKind, Kind, Subscription
from durable_streams_tw.storage.admin.fsck.findings import Finding, Flaw, unreadable
from durable_streams_tw.storage.durable import reader
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.engine.tables import (
    CURSORS,
    FAN_OUTS,
    LINKS,
    OWNED,
    SUBSCRIPTIONS,
    Table,
    name_key,
    owned_range,
    scan_with_errors,
    stream_key,
    subscription_key,
)
from durable_streams_tw.storage.errors import CorruptRecord


class SubscriptionChecker:
    """The walk over the subscriptions that a view has. ``greatest`` is their greatest number."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._numbers: set[int] = set()
        self._wake_streams: set[str] = set()
        # Streams whose end has not reached all subscriptions.
        self._ending: set[str] = set()
        self.greatest = 0

    def findings(self) -> Iterator[Finding]:
        """What is wrong with them."""
        # Where one cannot be read, what belongs to it has nobody that is known.
        unknown = False
        for _, state in scan_with_errors(self._view, SUBSCRIPTIONS, b"", None):
            if isinstance(state, CorruptRecord):
                unknown = True
            elif state.config.wake_stream is not None:
                self._wake_streams.add(state.config.wake_stream)
        yield from self._fan_outs()
        for key, state in scan_with_errors(self._view, SUBSCRIPTIONS, b"", None):
            if isinstance(state, CorruptRecord):
                yield unreadable(state)
            else:
                yield from self._subscription(SUBSCRIPTIONS.prefix + key, state)
        for table in OWNED:
            yield from self._owned(table, unknown)

    def _subscription(self, key: bytes, state: Subscription) -> Iterator[Finding]:
        if key != SUBSCRIPTIONS.prefix + subscription_key(state.id):
            yield _wrong(key, f"the record says that it is subscription {state.id!r}")
        if state.number in self._numbers or self._has(codec.stream_key(state.number)):
            yield _wrong(key, f"its number {state.number} is another's too")
        self._numbers.add(state.number)
        self.greatest = max(self.greatest, state.number)
        try:
            glob = None if state.config.pattern is None else parse_glob(state.config.pattern)
        except Refused as refused:
            yield _wrong(key, refused.refusal.detail)
            return
        yield from self._phase(key, state)
        named: set[str] = set()
        for behind, link in scan_with_errors(self._view, LINKS, *owned_range(state.number)):
            if isinstance(link, CorruptRecord):
                # Found where records are gone through by table.
                return
            if behind != stream_key(state.number, link.path):
                yield _wrong(LINKS.prefix + behind, f"it names {link.path!r}")
            named.add(link.path)
        if len(named) != state.explicit:
            yield _wrong(key, f"it names {len(named)} streams, and counts {state.explicit}")
        yield from self._cursors(key, state, glob, named)

    def _fan_outs(self) -> Iterator[Finding]:
        for key, fan_out in scan_with_errors(self._view, FAN_OUTS, b"", None):
            if isinstance(fan_out, CorruptRecord):
                yield unreadable(fan_out)
            elif key != name_key(fan_out.path):
                yield _wrong(FAN_OUTS.prefix + key, f"it is of {fan_out.path!r}")
            elif fan_out.kind is FanOutKind.ENDED:
                self._ending.add(fan_out.path)

    def _phase(self, key: bytes, state: Subscription) -> Iterator[Finding]:
        due, lease = state.next_attempt_at is not None, state.lease_until is not None
        if due and lease:
            yield _wrong(key, "it is waking and leased at once")
        if state.idle and (due or lease or state.holder is not None or state.failures):
            yield _wrong(key, "it is idle, and something is going on")
        if state.config.kind is Kind.WEBHOOK:
            if not state.idle and not due and not lease:
                yield _wrong(key, "nobody calls its webhook")
            if state.config.url is None or state.config.wake_stream is not None:
                yield _wrong(key, "it is no webhook")
        elif state.config.wake_stream is None or (lease and state.holder is None):
            yield _wrong(key, "it has no wake stream, or nobody holds its lease")

    def _cursors(
        self, key: bytes, state: Subscription, glob: Glob | None, named: set[str]
    ) -> Iterator[Finding]:
        count = 0
        for behind, cursor in scan_with_errors(self._view, CURSORS, *owned_range(state.number)):
            count += 1
            if isinstance(cursor, CorruptRecord):
                continue
            whole = CURSORS.prefix + behind
            path = cursor.path
            if behind != stream_key(state.number, path):
                yield _wrong(whole, f"it is of {path!r}")
            if path not in named and (glob is None or not matches(glob, path)):
                yield _wrong(whole, f"{path!r} is not linked")
            if path in self._ending:
                continue
            if path in self._wake_streams:
                yield _wrong(whole, f"{path!r} is a wake stream")
            yield from self._cursor(whole, cursor)
        waiting = not state.idle and not state.leased
        if (state.idle and count) or (waiting and not count):
            yield _wrong(key, f"{count} streams are pending, wake {state.wake_id}")

    def _cursor(self, key: bytes, cursor: Cursor) -> Iterator[Finding]:
        try:
            record = reader.load_stream_at(self._view, cursor.path)
        except CorruptRecord:
            return
        if record is None or record.state.deleted:
            yield _wrong(key, f"{cursor.path!r} is not there")
        elif not 0 <= cursor.acked < record.state.tail:
            yield _wrong(key, f"{cursor.acked} of {record.state.tail} is acknowledged")

    def _owned(self, table: Table[Any], unknown: bool) -> Iterator[Finding]:
        for key, record in scan_with_errors(self._view, table, b"", None):
            whole = table.prefix + key
            if len(key) < 9:
                yield Finding(Flaw.STRANGE_KEY, whole, "a number and a stream's name are due")
                continue
            if isinstance(record, CorruptRecord):
                yield unreadable(record)
            number = codec.unpack_integer(key[:8])
            self.greatest = max(self.greatest, number)
            if (
                number not in self._numbers
                and not unknown
                and not self._has(codec.garbage_key(number))
            ):
                yield Finding(Flaw.ORPHAN, whole, f"subscription {number} is gone")

    def _has(self, key: bytes) -> bool:
        return self._view.get(key) is not None


def _wrong(key: bytes, detail: str) -> Finding:
    return Finding(Flaw.SUBSCRIPTION, key, detail)
