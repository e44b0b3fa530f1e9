"""Builders of commands."""

from __future__ import annotations

from durable_streams_tw.protocol.streams import bodies
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete, ForkRequest
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime

BYTES = "application/octet-stream"
JSON = "application/json"


def create(
    path: str,
    data: bytes = b"",
    *,
    content_type: str = BYTES,
    ttl: int | None = None,
    expires_at: int | None = None,
    closed: bool = False,
) -> Create:
    """Return a PUT; ``data`` is the body, ``ttl`` in seconds, ``expires_at`` in ms
    since the epoch.
    """
    return Create(
        path,
        content_type,
        NO_EXPIRY if ttl is expires_at is None else Lifetime(ttl=ttl, expires_at=expires_at),
        closed,
        bodies.initial(content_type, data),
    )


def fork(path: str, source: str, offset: int | None = None, data: bytes = b"") -> Create:
    """Return a PUT that forks a stream of the default type."""
    return Create(path, None, NO_EXPIRY, False, bodies.Body(data), ForkRequest(source, offset, 0))


def append(
    path: str,
    data: bytes,
    *,
    content_type: str = BYTES,
    producer: tuple[str, int, int] | None = None,
    seq: bytes | None = None,
    closed: bool = False,
) -> Append:
    """Return a POST with a body; ``producer`` is id, epoch and sequence number."""
    return Append(
        path,
        content_type,
        bodies.appended(content_type, data),
        closed,
        seq,
        None if producer is None else ProducerClaim(*producer),
    )


def close(path: str, *, producer: tuple[str, int, int] | None = None) -> Append:
    """Return a POST that only closes."""
    claim = None if producer is None else ProducerClaim(*producer)
    return Append(path, None, None, True, None, claim)


def delete(path: str) -> Delete:
    """Return a DELETE."""
    return Delete(path)
