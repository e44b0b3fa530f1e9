"""Outcomes: what carrying out a command has come to, when it was not refused."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol.streams.bodies import EMPTY, Body
from durable_streams_tw.protocol.streams.producers import ProducerState
from durable_streams_tw.protocol.streams.state import StreamState


class Created(Struct, frozen=True, gc=False):
    """The stream is there; ``fresh`` where this command made it, with ``body`` in it."""

    state: StreamState
    fresh: bool
    body: Body = EMPTY


class Appended(Struct, frozen=True, gc=False):
    """The command is done; ``state`` is the stream after it.

    ``producer`` is the producer's state where the request named one; ``duplicate`` says
    that nothing changed because the batch had been accepted before, or the stream was closed
    already; ``grew`` that bytes were appended.
    """

    state: StreamState
    producer: ProducerState | None = None
    duplicate: bool = False
    grew: bool = False


class Deleted(Struct, frozen=True):
    """The stream is gone; ``state`` is what it was, or what stays for its forks."""

    state: StreamState
