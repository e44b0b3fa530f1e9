"""The streams that there are, page by page: a question for `IStreamStore.ask`."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import StoreSnapshot
from durable_streams_tw.storage.engine.codec import CorruptRecord
from durable_streams_tw.storage.limits import LISTING_PAGE, MAX_LISTING_SCAN


class Page(Struct, frozen=True):
    """Streams in order; ``after`` is where the next page begins, None where nothing follows.

    ``unreadable`` are the names of streams whose records the disk has damaged.
    """

    streams: tuple[StreamState, ...]
    after: str | None = None
    unreadable: tuple[str, ...] = ()


def list_streams(
    moment: StoreSnapshot,
    prefix: str = "",
    after: str = "",
    limit: int = LISTING_PAGE,
    scan: int = MAX_LISTING_SCAN,
) -> Page:
    """The streams whose names begin with a text and stand behind ``after``, at most ``limit``.

    Those that a client cannot use, for they have expired or live on only for their forks, are
    left out. No more than ``scan`` names are looked at, so a page may have fewer streams than
    there are, or none: go on from its ``after``.
    """
    streams: list[StreamState] = []
    unreadable: list[str] = []
    last = after
    for seen, name in enumerate(moment.names(prefix, after)):
        # One more than the page has shows that there are more.
        if seen == scan or len(streams) == limit:
            return Page(tuple(streams), last, tuple(unreadable))
        last = name
        if not name.startswith(prefix):
            continue
        try:
            state = moment.living(name)
        except CorruptRecord:
            unreadable.append(name)
        else:
            if state is not None:
                streams.append(state)
    return Page(tuple(streams), None, tuple(unreadable))
