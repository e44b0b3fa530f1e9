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


def list_streams(
    snapshot: StoreSnapshot,
    prefix: str = "",
    after: str = "",
    limit: int = LISTING_PAGE,
    scan: int = MAX_LISTING_SCAN,
) -> Page:
    """Return up to ``limit`` streams whose names start with a prefix and sort after ``after``.

    Streams that clients cannot use, expired or kept only for their forks, are left out. At most
    ``scan`` names are examined, so a page may be short or empty although more streams follow:
    continue at its ``after``.
    """
    streams: list[StreamState] = []
    unreadable: list[str] = []
    last = after
    for examined, name in enumerate(snapshot.stream_names(prefix, after)):
        # Reached only if a name follows the page, so ``after`` is None on the last page.
        if examined == scan or len(streams) == limit:
            return Page(tuple(streams), last, tuple(unreadable))
        last = name
        if not name.startswith(prefix):
            continue
        try:
            state = snapshot.active_stream(name)
        except CorruptRecord:
            unreadable.append(name)
        else:
            if state is not None:
                streams.append(state)
    return Page(tuple(streams), None, tuple(unreadable))
