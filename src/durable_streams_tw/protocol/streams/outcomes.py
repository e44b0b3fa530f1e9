"""Outcomes of commands that were not refused."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.streams.bodies import EMPTY, Body
from durable_streams_tw.protocol.streams.producers import ProducerState
from durable_streams_tw.protocol.streams.state import StreamState


class Created(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Outcome of a `Create`. ``fresh`` means that the command created the stream with ``body``."""

    state: StreamState
    fresh: bool
    body: Body = EMPTY


class Appended(Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Outcome of an `Append`; ``state`` is the stream after it.

    ``producer`` is the new state of the request's producer, if it has one. ``duplicate`` means
    that nothing changed, because the batch was accepted before or the stream was closed before.
    ``grew`` means that bytes were appended.
    """

    state: StreamState
    producer: ProducerState | None = None
    duplicate: bool = False
    grew: bool = False


class Deleted(Struct, frozen=True, array_like=True, tag=True):
    """Outcome of a `Delete`; ``state`` is the last state, marked deleted if it has forks."""

    state: StreamState
