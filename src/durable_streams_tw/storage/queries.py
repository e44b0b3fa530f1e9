"""Paged listing of streams, a query for `IStreamStore.query`."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import StoreSnapshot
from durable_streams_tw.storage.errors import CorruptRecord
from durable_streams_tw.storage.limits import LISTING_PAGE, MAX_LISTING_SCAN


class Page(Struct, frozen=True):
    """One page of a listing, in order of names.

    ``after`` is the argument that returns the next page, None on the last page. ``unreadable``
    are the names of streams whose records are damaged.
    """

    streams: tuple[StreamState, ...]
    after: str | None = None
    unreadable: tuple[str, ...] = ()


class ListStreams(Struct, frozen=True, array_like=True, tag=True):
    """Question for up to ``limit`` streams whose names start with a prefix, after ``after``.

    Streams that clients cannot use, expired or kept only for their forks, are left out. At most
    ``scan`` names are examined, so a page may be short or empty although more streams follow:
    continue at its ``after``.
    """

    prefix: str = ""
    after: str = ""
    limit: int = LISTING_PAGE
    scan: int = MAX_LISTING_SCAN

    def answer(self, snapshot: StoreSnapshot) -> Page:
        """Return the page."""
        streams: list[StreamState] = []
        unreadable: list[str] = []
        last = self.after
        for examined, name in enumerate(snapshot.stream_names(self.prefix, self.after)):
            # Reached only if a name follows the page, so ``after`` is None on the last page.
            if examined == self.scan or len(streams) == self.limit:
                return Page(tuple(streams), last, tuple(unreadable))
            last = name
            if not name.startswith(self.prefix):
                continue
            try:
                state = snapshot.active_stream(name)
            except CorruptRecord:
                unreadable.append(name)
            else:
                if state is not None:
                    streams.append(state)
        return Page(tuple(streams), None, tuple(unreadable))
