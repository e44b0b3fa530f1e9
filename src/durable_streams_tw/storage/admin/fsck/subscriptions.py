"""Check of the subscriptions of a store.

1. Keys match their records. Numbers are unique among streams and subscriptions.
2. A subscription is in one phase at a time. It has no cursors while idle, and at least one while
   waking or offered.
3. It counts its explicit links.
4. A cursor belongs to an existing stream that the subscription is linked to and that has
   unacknowledged bytes. Wake streams have no cursors. Until the fan-out of a stream's end is done,
   its cursors may remain.
5. The key of a fan-out is that of its stream.
6. Links and cursors belong to an existing subscription, or to one that is marked for deletion.

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
from durable_streams_tw.storage.engine import codec, tables
from durable_streams_tw.storage.engine.kv import View
from durable_streams_tw.storage.errors import CorruptRecord


class SubscriptionChecker:
    """Check of the subscriptions of a view. ``greatest`` is the greatest number found."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._numbers: set[int] = set()
        self._wake_streams: set[str] = set()
        # Streams whose end has not been fanned out to all subscriptions.
        self._ending: set[str] = set()
        self.greatest = 0

    def findings(self) -> Iterator[Finding]:
        """Yield the flaws of subscriptions, links, cursors and fan-outs."""
        # After a corrupt subscription, records without an owner may be its own: do not report them.
        unknown = False
        for _, state in tables.scan_with_errors(self._view, tables.SUBSCRIPTIONS, b"", None):
            if isinstance(state, CorruptRecord):
                unknown = True
            elif state.config.wake_stream is not None:
                self._wake_streams.add(state.config.wake_stream)
        yield from self._fan_outs()
        for key, state in tables.scan_with_errors(self._view, tables.SUBSCRIPTIONS, b"", None):
            if isinstance(state, CorruptRecord):
                yield unreadable(state)
            else:
                yield from self._subscription(tables.SUBSCRIPTIONS.prefix + key, state)
        for table in tables.OWNED:
            yield from self._owned(table, unknown)

    def _subscription(self, key: bytes, state: Subscription) -> Iterator[Finding]:
        if key != tables.SUBSCRIPTIONS.prefix + tables.subscription_key(state.id):
            yield _wrong(key, f"the record is that of subscription {state.id!r}")
        if state.number in self._numbers or self._has(codec.stream_key(state.number)):
            yield _wrong(key, f"its number {state.number} is used twice")
        self._numbers.add(state.number)
        self.greatest = max(self.greatest, state.number)
        try:
            glob = None if state.config.pattern is None else parse_glob(state.config.pattern)
        except Refused as refused:
            yield _wrong(key, refused.refusal.detail)
            return
        yield from self._phase(key, state)
        named: set[str] = set()
        for link_key, link in tables.scan_with_errors(
            self._view, tables.LINKS, *tables.owned_range(state.number)
        ):
            if isinstance(link, CorruptRecord):
                # Reported by `_owned`.
                return
            if link_key != tables.owned_key(state.number, link.path):
                yield _wrong(
                    tables.LINKS.prefix + link_key, f"the record is that of stream {link.path!r}"
                )
            named.add(link.path)
        if len(named) != state.explicit:
            yield _wrong(key, f"it has {len(named)} explicit links, and counts {state.explicit}")
        yield from self._cursors(key, state, glob, named)

    def _fan_outs(self) -> Iterator[Finding]:
        for key, fan_out in tables.scan_with_errors(self._view, tables.FAN_OUTS, b"", None):
            if isinstance(fan_out, CorruptRecord):
                yield unreadable(fan_out)
            elif key != tables.name_key(fan_out.path):
                yield _wrong(
                    tables.FAN_OUTS.prefix + key, f"the record is that of stream {fan_out.path!r}"
                )
            elif fan_out.kind is FanOutKind.ENDED:
                self._ending.add(fan_out.path)

    def _phase(self, key: bytes, state: Subscription) -> Iterator[Finding]:
        due, lease = state.next_attempt_at is not None, state.lease_until is not None
        if due and lease:
            yield _wrong(key, "it is both waking and leased")
        if state.idle and (due or lease or state.holder is not None or state.failures):
            yield _wrong(key, "it is idle, but has a lease, an attempt or failures")
        if state.config.kind is Kind.WEBHOOK:
            if not state.idle and not due and not lease:
                yield _wrong(key, "it is waking, but has no next attempt")
            if state.config.url is None or state.config.wake_stream is not None:
                yield _wrong(key, "its webhook configuration is invalid")
        elif state.config.wake_stream is None or (lease and state.holder is None):
            yield _wrong(key, "it has no wake stream, or a lease without a holder")

    def _cursors(
        self, key: bytes, state: Subscription, glob: Glob | None, named: set[str]
    ) -> Iterator[Finding]:
        count = 0
        for cursor_key, cursor in tables.scan_with_errors(
            self._view, tables.CURSORS, *tables.owned_range(state.number)
        ):
            count += 1
            if isinstance(cursor, CorruptRecord):
                continue
            whole = tables.CURSORS.prefix + cursor_key
            path = cursor.path
            if cursor_key != tables.owned_key(state.number, path):
                yield _wrong(whole, f"the record is that of stream {path!r}")
            if path not in named and (glob is None or not matches(glob, path)):
                yield _wrong(whole, f"{path!r} is not linked")
            if path in self._ending:
                continue
            if path in self._wake_streams:
                yield _wrong(whole, f"{path!r} is a wake stream")
            yield from self._cursor(whole, cursor)
        waiting = not state.idle and not state.leased
        if (state.idle and count) or (waiting and not count):
            yield _wrong(key, f"{count} cursors do not match its phase (wake {state.wake_id})")

    def _cursor(self, key: bytes, cursor: Cursor) -> Iterator[Finding]:
        try:
            record = reader.load_stream_at(self._view, cursor.path)
        except CorruptRecord:
            return
        if record is None or record.state.deleted:
            yield _wrong(key, f"{cursor.path!r} does not exist")
        elif not 0 <= cursor.acked < record.state.tail:
            yield _wrong(key, f"acknowledged position {cursor.acked}, tail {record.state.tail}")

    def _owned(self, table: tables.Table[Any], unknown: bool) -> Iterator[Finding]:
        for key, record in tables.scan_with_errors(self._view, table, b"", None):
            whole = table.prefix + key
            if len(key) < 9:
                yield Finding(
                    Flaw.STRANGE_KEY, whole, "the key must have a number and a stream name"
                )
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
                yield Finding(Flaw.ORPHAN, whole, f"subscription {number} does not exist")

    def _has(self, key: bytes) -> bool:
        return self._view.get(key) is not None


def _wrong(key: bytes, detail: str) -> Finding:
    return Finding(Flaw.SUBSCRIPTION, key, detail)
