"""Question for the subscriptions of a store and their pending work, in pages."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.subscriptions.state import Subscription
from durable_streams_tw.storage.api import StoreSnapshot
from durable_streams_tw.storage.engine import tables
from durable_streams_tw.storage.limits import LISTING_PAGE, MAX_LISTING_SCAN


class PendingWork(Struct, frozen=True):
    """Subscription with the number of its streams that have pending work, and of their bytes.

    ``complete`` is False if not all of its streams were examined.
    """

    state: Subscription
    streams: int
    size: int
    complete: bool


class SubscriptionPage(Struct, frozen=True):
    """Page of subscriptions in the order of their ids; ``after`` is as in `queries.Page`."""

    subscriptions: tuple[PendingWork, ...]
    after: str | None = None


class ListSubscriptions(Struct, frozen=True, array_like=True, tag=True):
    """Question for up to ``limit`` subscriptions whose ids sort after ``after``.

    At most ``scan`` cursors are examined for the whole page.
    """

    after: str = ""
    limit: int = LISTING_PAGE
    scan: int = MAX_LISTING_SCAN

    def answer(self, snapshot: StoreSnapshot) -> SubscriptionPage:
        """Return the page. Raises `CorruptRecord`."""
        found: list[PendingWork] = []
        left = self.scan
        first = tables.subscription_key(self.after) + b"\x00" if self.after else b""
        for _, state in snapshot.range(tables.SUBSCRIPTIONS, first, None):
            if len(found) == self.limit:
                return SubscriptionPage(tuple(found), found[-1].state.id)
            streams = size = 0
            complete = True
            for _, cursor in snapshot.range(tables.CURSORS, *tables.owned_range(state.number)):
                if not left:
                    complete = False
                    break
                left -= 1
                stream = snapshot.active_stream(cursor.path)
                if stream is not None and stream.tail > cursor.acked:
                    streams += 1
                    size += stream.tail - cursor.acked
            found.append(PendingWork(state, streams, size, complete))
        return SubscriptionPage(tuple(found))
