"""Descriptions of subscriptions: streams and acknowledged offsets (PROTOCOL.md §6.3)."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.globs import literal_prefix, matches, parse_glob
from durable_streams_tw.protocol.subscriptions.state import GONE, Subscription
from durable_streams_tw.storage.api import StoreSnapshot
from durable_streams_tw.storage.commands.subscription_queries import (
    acked_position,
    explicit_paths,
    subscription_by_id,
)
from durable_streams_tw.subscriptions.limits import MAX_LISTED_STREAMS, MAX_SCANNED_NAMES


class Link(Struct, frozen=True):
    """Stream of a subscription, acknowledged up to the position ``acked``.

    ``stream`` is None if no stream exists at the path.
    """

    path: str
    explicit: bool
    acked: int
    stream: StreamState | None


class Description(Struct, frozen=True):
    """Subscription with its streams, sorted by path.

    ``complete`` is False if the subscription has more streams than are listed.
    """

    state: Subscription
    links: tuple[Link, ...]
    complete: bool


def describe(snapshot: StoreSnapshot, subscription_id: str) -> Description | Refusal:
    """Return the subscription with an id and at most `MAX_LISTED_STREAMS` of its streams."""
    state = subscription_by_id(snapshot, subscription_id)
    if state is None:
        return GONE
    explicit = set(explicit_paths(snapshot, state))
    paths = sorted(explicit)[:MAX_LISTED_STREAMS]
    complete = len(paths) == len(explicit)
    for scanned, path in enumerate(_glob_candidates(snapshot, state)):
        # Collect one path more than is listed: it shows that the list is incomplete.
        if scanned >= MAX_SCANNED_NAMES or len(paths) > MAX_LISTED_STREAMS:
            complete = False
            break
        if path is not None and path not in explicit:
            paths.append(path)
    complete = complete and len(paths) <= MAX_LISTED_STREAMS
    del paths[MAX_LISTED_STREAMS:]
    links = [_link(snapshot, state, path, path in explicit) for path in sorted(paths)]
    return Description(state, tuple(links), complete)


def glob_and_explicit_paths(
    snapshot: StoreSnapshot, subscription_id: str
) -> tuple[str | None, tuple[str, ...]] | Refusal:
    """Return the glob of the subscription with an id, and the paths of its explicit streams."""
    state = subscription_by_id(snapshot, subscription_id)
    if state is None:
        return GONE
    return state.config.pattern, tuple(explicit_paths(snapshot, state))


def _glob_candidates(snapshot: StoreSnapshot, state: Subscription) -> Iterable[str | None]:
    """Yield the path of each live stream that the glob matches, and None for each other name.

    The wake stream is not a candidate.
    """
    pattern = state.config.pattern
    if pattern is None:
        return
    glob = parse_glob(pattern)
    for path in snapshot.stream_names(literal_prefix(glob)):
        linked = (
            matches(glob, path)
            and path != state.config.wake_stream
            and snapshot.active_stream(path) is not None
        )
        yield path if linked else None


def _link(snapshot: StoreSnapshot, state: Subscription, path: str, explicit: bool) -> Link:
    acked = acked_position(snapshot, state, path)
    stream = snapshot.active_stream(path)
    if acked is None:
        acked = 0 if stream is None else stream.tail
    return Link(path, explicit, acked, stream)
