"""Parsing of the paths of control resources below ``__ds`` (PROTOCOL.md §6, §7).

A path is split before it is percent-decoded, so that an encoded slash within a subscription id or
a stream path does not separate segments.
"""

from __future__ import annotations

from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from durable_streams_tw.protocol.limits import RESERVED_SEGMENT
from durable_streams_tw.protocol.paths import FIRST_OF_RESERVED


class ControlResource(Enum):
    """Control resources, with their paths below ``__ds``."""

    NOTHING = "nothing"
    KEYS = "jwks.json"
    SUBSCRIPTION = "subscriptions/:id"
    STREAMS = "subscriptions/:id/streams"
    STREAM = "subscriptions/:id/streams/:path"
    CALLBACK = "subscriptions/:id/callback"
    CLAIM = "subscriptions/:id/claim"
    ACK = "subscriptions/:id/ack"
    RELEASE = "subscriptions/:id/release"


class ControlPath(Struct, frozen=True):
    """Parsed control path. ``id`` and ``stream`` are raw, and empty if the path has none."""

    resource: ControlResource
    id: bytes = b""
    stream: bytes = b""


_RESERVED: Final = RESERVED_SEGMENT.encode("ascii")
_NOTHING: Final = ControlPath(ControlResource.NOTHING)
_ACTIONS: Final = {
    b"callback": ControlResource.CALLBACK,
    b"claim": ControlResource.CLAIM,
    b"ack": ControlResource.ACK,
    b"release": ControlResource.RELEASE,
}


def is_control(path: bytes) -> bool:
    """Return whether a raw path after the root is reserved, in any encoding."""
    if path[:1] not in FIRST_OF_RESERVED:
        return False
    first = unquote_to_bytes(path.partition(b"/")[0]).partition(b"/")[0]
    return first == _RESERVED


def parse_control_path(path: bytes) -> ControlPath:
    """Return the resource that a reserved raw path names."""
    _, *segments = path.split(b"/")
    names = [unquote_to_bytes(segment) for segment in segments]
    if names == [b"jwks.json"]:
        return ControlPath(ControlResource.KEYS)
    if len(names) < 2 or names[0] != b"subscriptions":
        return _NOTHING
    if len(names) == 2:
        return ControlPath(ControlResource.SUBSCRIPTION, segments[1])
    if names[2] == b"streams":
        rest = segments[3:]
        if not rest:
            return ControlPath(ControlResource.STREAMS, segments[1])
        return ControlPath(ControlResource.STREAM, segments[1], b"/".join(rest))
    place = _ACTIONS.get(names[2])
    if place is None or len(names) > 3:
        return _NOTHING
    return ControlPath(place, segments[1])
