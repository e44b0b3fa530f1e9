"""Describing a subscription: its streams, and how far each is acknowledged (PROTOCOL.md §6.3)."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.limits import MAX_LISTED_STREAMS, MAX_SCANNED_NAMES
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.globs import literal_prefix, matches, parse_glob
from durable_streams_tw.protocol.subscriptions.state import GONE, Subscription
from durable_streams_tw.storage.api import StoreSnapshot
from durable_streams_tw.storage.engine.tables import (
    CURSORS,
    NAMED,
    SUBSCRIPTIONS,
    owned_range,
    stream_key,
    subscription_key,
)


class Link(Struct, frozen=True):
    """A stream of a subscription, acknowledged up to the position ``acked``.

    ``stream`` is None where there is no stream at the path.
    """

    path: str
    explicit: bool
    acked: int
    stream: StreamState | None


class Description(Struct, frozen=True):
    """A subscription and its streams, sorted; not ``complete`` where there are too many to be
    listed."""

    state: Subscription
    links: tuple[Link, ...]
    complete: bool


def describe(moment: StoreSnapshot, name: str) -> Description | Refusal:
    """The subscription of an id."""
    state = moment.get(SUBSCRIPTIONS, subscription_key(name))
    if state is None:
        return GONE
    explicit = {link.path for _, link in moment.range(NAMED, *owned_range(state.number))}
    paths = _first(explicit)
    complete = len(paths) == len(explicit)
    for scanned, path in enumerate(_candidates(moment, state)):
        # One more than is listed shows that there are more.
        if scanned >= MAX_SCANNED_NAMES or len(paths) > MAX_LISTED_STREAMS:
            complete = False
            break
        if path is not None and path not in explicit:
            paths.append(path)
    complete = complete and len(paths) <= MAX_LISTED_STREAMS
    del paths[MAX_LISTED_STREAMS:]
    links = [_link(moment, state, path, path in explicit) for path in sorted(paths)]
    return Description(state, tuple(links), complete)


def _first(explicit: Iterable[str]) -> list[str]:
    return sorted(explicit)[:MAX_LISTED_STREAMS]


def _candidates(moment: StoreSnapshot, state: Subscription) -> Iterable[str | None]:
    """Streams that the glob may match: the name where it does and the stream lives, and is not
    the wake stream, otherwise None."""
    pattern = state.config.pattern
    if pattern is None:
        return
    glob = parse_glob(pattern)
    for path in moment.names(literal_prefix(glob)):
        linked = (
            matches(glob, path)
            and path != state.config.wake_stream
            and moment.living(path) is not None
        )
        yield path if linked else None


def _link(moment: StoreSnapshot, state: Subscription, path: str, explicit: bool) -> Link:
    cursor = moment.get(CURSORS, stream_key(state.number, path))
    stream = moment.living(path)
    tail = 0 if stream is None else stream.tail
    return Link(path, explicit, tail if cursor is None else cursor.acked, stream)
