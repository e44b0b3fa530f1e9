"""Values and the exception of the embedding API."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

from durable_streams_tw.protocol import content_types, json_mode
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import Chunk


class StreamError(Exception):
    """Refusal of a request: its problem, HTTP status, and a message for people."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal

    @property
    def problem(self) -> Problem:
        """The kind of problem."""
        return self.refusal.problem

    @property
    def status(self) -> int:
        """The HTTP status that a client would get."""
        return self.refusal.problem.status


class StreamInfo(Struct, frozen=True):
    """State of a stream.

    ``offset`` is its tail, ``ttl`` is in seconds, ``expires_at`` an RFC 3339 timestamp.
    ``created`` is True if the call has created it.
    """

    path: str
    content_type: str
    offset: str
    closed: bool
    ttl: int | None = None
    expires_at: str | None = None
    created: bool = False


class Written(Struct, frozen=True):
    """Result of an append.

    ``offset`` is the stream's tail after it. ``duplicate`` is True if the producer's batch had
    been appended before, so that nothing has changed.
    """

    offset: str
    closed: bool
    duplicate: bool


class Batch(Struct, frozen=True):
    """Result of a read.

    ``data`` has whole messages; in JSON mode it is an array of them, as in an HTTP response.
    ``offset`` is where to continue. ``up_to_date`` is True at the tail, ``closed`` at the end of a
    closed stream.
    """

    content_type: str
    data: bytes
    offset: str
    up_to_date: bool
    closed: bool

    def json(self) -> list[Any]:
        """Return the decoded messages of a stream in JSON mode."""
        messages: list[Any] = json.loads(self.data)
        return messages


def stream_info(state: StreamState, created: bool = False) -> StreamInfo:
    """Return the public value of a stream's state."""
    return StreamInfo(
        state.path,
        state.content_type,
        format_offset(state, state.tail),
        state.closed,
        state.lifetime.ttl,
        state.lifetime.expires_at_text,
        created,
    )


def created_info(outcome: Created) -> StreamInfo:
    """Return the public value of a create command's outcome."""
    return stream_info(outcome.state, outcome.fresh)


def written(outcome: Appended) -> Written:
    """Return the public value of an append command's outcome."""
    state = outcome.state
    return Written(format_offset(state, state.tail), state.closed, outcome.duplicate)


def batch(chunk: Chunk) -> Batch:
    """Return the public value of a chunk."""
    state = chunk.state
    data = chunk.data
    if content_types.is_json(state.content_type):
        data = json_mode.document(data)
    return Batch(
        state.content_type,
        data,
        format_offset(state, chunk.end),
        chunk.at_tail,
        chunk.at_tail and state.closed,
    )
