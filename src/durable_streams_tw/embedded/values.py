"""What programs in the same process get from the streams: small values, one exception."""

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
    """The streams refuse what they were asked.

    ``problem`` says which of the known problems it is, ``status`` what an HTTP client would
    have been told; the message is a sentence for people.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal

    @property
    def problem(self) -> Problem:
        """Which problem it is."""
        return self.refusal.problem

    @property
    def status(self) -> int:
        """The HTTP status of the problem."""
        return self.refusal.problem.status


class StreamInfo(Struct, frozen=True):
    """A stream at one moment.

    ``offset`` is its end, where the next bytes will stand. ``ttl`` is in seconds,
    ``expires_at`` an RFC 3339 timestamp. ``created`` says that the call has made it.
    """

    path: str
    content_type: str
    offset: str
    closed: bool
    ttl: int | None = None
    expires_at: str | None = None
    created: bool = False


class Written(Struct, frozen=True):
    """What an append has come to.

    ``offset`` is the stream's end after it. ``duplicate`` says that nothing has changed,
    because the same batch of the same producer was there already.
    """

    offset: str
    closed: bool
    duplicate: bool


class Batch(Struct, frozen=True):
    """Bytes that were read.

    ``data`` are whole messages: in JSON mode an array of them, as an HTTP client would see
    it. ``offset`` is where to read on. ``up_to_date`` says that there was no more, ``closed``
    that there never will be.
    """

    content_type: str
    data: bytes
    offset: str
    up_to_date: bool
    closed: bool

    def json(self) -> list[Any]:
        """The messages of a stream in JSON mode, decoded."""
        messages: list[Any] = json.loads(self.data)
        return messages


def info_of(state: StreamState, created: bool = False) -> StreamInfo:
    """What is told of a stream."""
    return StreamInfo(
        state.path,
        state.content_type,
        format_offset(state, state.tail),
        state.closed,
        state.lifetime.ttl,
        state.lifetime.expires_at_text,
        created,
    )


def created_from(outcome: Created) -> StreamInfo:
    """What is told of a stream that was to be created."""
    return info_of(outcome.state, outcome.fresh)


def written_from(outcome: Appended) -> Written:
    """What is told of an append."""
    state = outcome.state
    return Written(format_offset(state, state.tail), state.closed, outcome.duplicate)


def batch_of(chunk: Chunk) -> Batch:
    """What is told of a read."""
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
