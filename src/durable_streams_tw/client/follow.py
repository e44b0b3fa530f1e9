"""Catch-up and live reads of a stream (PROTOCOL.md §5.6-5.8).

A response may be as long as the stream. It is yielded in batches, and only the last batch has an
offset. If the connection is lost before that, the client repeats the request from the last offset
and skips the bytes already yielded, which works because bytes of a stream never change. So each
byte is yielded exactly once, wherever the connection breaks.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import AsyncGenerator
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from durable_streams_tw.client import messages
from durable_streams_tw.client.errors import BadResponse, Rejected, Unreachable, about
from durable_streams_tw.client.events import Event, EventParser
from durable_streams_tw.client.messages import ArrayCutter, BytesCutter
from durable_streams_tw.client.requests import Endpoint, Query, is_transient
from durable_streams_tw.client.transport import Answer
from durable_streams_tw.client.values import is_true, next_offset
from durable_streams_tw.protocol import content_types
from durable_streams_tw.protocol.streams import sse
from durable_streams_tw.protocol.streams.sse import Framing

Live = Literal["auto", "sse", "long-poll"]
"""Mode of live reads.

``auto`` uses SSE for JSON and binary streams, and long-polls for text, because SSE cannot
transfer carriage returns in text.
"""

#: Time without a byte after which a live connection counts as lost (seconds). Servers end
#: long-polls and SSE responses after a minute or less (PROTOCOL.md §10.2).
QUIET: Final = 90.0

#: Minimum time between the starts of two live requests if the first returned no data (seconds).
_LEAST_ROUND: Final = 0.5

_SSE: Final = "text/event-stream"
#: Statuses with which servers without SSE refuse a request for it.
_NO_SUCH_MODE: Final = frozenset({400, 404, 405, 406, 415, 501})


class Batch(Struct, frozen=True):
    """Contiguous bytes of a stream, and the offset at which they end.

    ``data`` is encoded as in the protocol: an array in JSON mode. ``offset`` is the offset from
    which a later read continues, None before the end of a response. ``up_to_date`` is true if the
    batch ended at the tail when the server sent it, ``closed`` if no more bytes will follow.
    ``remaining`` is the number of bytes of the response that have not arrived, None if unknown.
    """

    content_type: str
    data: bytes
    offset: str | None
    up_to_date: bool
    closed: bool
    remaining: int | None = None

    @property
    def is_json(self) -> bool:
        """True if the stream is in JSON mode (PROTOCOL.md §9.1)."""
        return content_types.is_json(self.content_type)

    def messages(self) -> list[bytes]:
        """Return the messages of a batch in JSON mode, byte for byte.

        Raises `BadResponse` if the data is not a JSON array.
        """
        return messages.messages(self.data) if self.data else []

    def json(self) -> list[Any]:
        """Return the messages of a batch in JSON mode, decoded.

        Raises `BadResponse` if the data is not a JSON array.
        """
        try:
            return [json.loads(message) for message in self.messages()]
        except (ValueError, RecursionError):
            raise BadResponse("the response is not valid JSON") from None

    def text(self) -> str:
        """Return the data decoded as UTF-8. Raises `BadResponse` if it is not UTF-8."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise BadResponse(f"the response is not valid UTF-8: {error}") from None


async def catch_up(endpoint: Endpoint, offset: str = "-1") -> AsyncGenerator[Batch, None]:
    """Yield the data of a stream from an offset to its tail.

    Retries transient errors. Raises `ClientError` for permanent errors, and when a retry limit is
    reached.
    """
    while True:
        reading = _Reading(endpoint, {"offset": offset})
        backoff = endpoint.backoff()
        batch: Batch | None = None
        while batch is None or batch.offset is None:
            batches = reading.batches()
            try:
                with about(endpoint.target.url):
                    async for batch in batches:
                        backoff.succeeded()
                        yield batch
            except (Rejected, Unreachable) as error:
                await endpoint.rest(backoff, error)
            finally:
                await batches.aclose()
        if batch.up_to_date or batch.closed:
            return
        if batch.offset == offset:
            with about(endpoint.target.url):
                raise BadResponse("the response is empty and has no Stream-Up-To-Date")
        offset = batch.offset


class _Reading:
    """Response to one read, resumable after a lost connection.

    ``content_type`` replaces the Content-Type of the response, unless it is None.
    """

    def __init__(self, endpoint: Endpoint, query: Query, content_type: str | None = None) -> None:
        self._endpoint = endpoint
        self._query = query
        self._content_type = content_type
        # Bytes of the response, or messages in JSON mode, already yielded; and the stream's id.
        self._told = 0
        self._life = ""
        self.header: dict[str, str] = {}

    @property
    def begun(self) -> bool:
        """True while the response is yielded only in part."""
        return self._told > 0

    async def batches(self, wait: float | None = None) -> AsyncGenerator[Batch, None]:
        """Send the request once; yield the batches that follow those already yielded.

        Only the last batch has an offset. ``wait`` is the timeout of the head in seconds, None for
        that of the client. Raises `ClientError`.
        """
        response = await self._endpoint.open(query=self._query, wait=wait)
        inflow = response.body
        try:
            self.header = response.header
            end = _read(Answer(response.status, response.header, b""), self._content_type)
            self._same_stream()
            cutter = _cutter(end.content_type, self._told)
            remaining = response.length
            while (piece := await inflow.take()) is not None:
                data, count = cutter.feed(piece)
                if remaining is not None:
                    remaining -= len(piece)
                if count:
                    self._told += count
                    yield Batch(end.content_type, data, None, False, False, remaining)
            data = cutter.finish()
            self._told = 0
            yield replace(end, data=data, remaining=remaining)
        finally:
            inflow.close()

    def _same_stream(self) -> None:
        """Check that a resumed response is one of the same stream.

        Entity tags begin with the id of the stream (PROTOCOL.md §5.6). Raises `BadResponse` if
        another stream was created under the URL.
        """
        life, _, rest = self.header.get("etag", "").removeprefix("W/").partition(":")
        life = life if rest else ""
        if self._told and life != self._life:
            raise BadResponse("the stream was deleted and created again while it was read")
        self._life = life


def _cutter(content_type: str, told: int) -> BytesCutter | ArrayCutter:
    if content_types.is_json(content_type):
        return ArrayCutter(told)
    if content_types.is_text(content_type):
        # Without this, a batch could end within a UTF-8 character.
        return BytesCutter(told, lambda data: sse.deliverable_size(Framing.TEXT, data, True))
    return BytesCutter(told)


async def follow(
    endpoint: Endpoint, offset: str = "-1", live: Live = "auto"
) -> AsyncGenerator[Batch, None]:
    """Yield the data of a stream from an offset on, until the stream is closed.

    Reconnects from the last offset after lost connections. Raises `ClientError` for permanent
    errors, and when a retry limit is reached. Call `aclose` on the generator to stop
    early.
    """
    batch: Batch | None = None
    async for batch in catch_up(endpoint, offset):
        yield batch
    assert batch is not None, "catching up yields at least once"
    if batch.closed:
        return
    following = _Following(endpoint, batch, live)
    while not following.closed:
        async for batch in following.round():
            yield batch


class _Following:
    """Live reader of a stream, from its tail on."""

    def __init__(self, endpoint: Endpoint, at: Batch, live: Live) -> None:
        self._endpoint = endpoint
        self._content_type = at.content_type
        assert at.offset is not None, "catching up ends with an offset"
        self._offset = at.offset
        # Response to the last long-poll; resumed if it was yielded only in part.
        self._reading: _Reading | None = None
        self._cursor: str | None = None
        text = content_types.is_text(at.content_type) and not at.is_json
        self._sse = live == "sse" or (live == "auto" and not text)
        self._may_fall_back = live == "auto"
        self._backoff = endpoint.backoff()
        self.closed = False

    async def round(self) -> AsyncGenerator[Batch, None]:
        """Yield the data of one live request.

        Returns after a transient error, and waits first if no data arrived. Raises `ClientError`
        for permanent errors, and when the client's retry limit is reached.
        """
        timers = self._endpoint.common.wire.timers
        began = timers.seconds()
        moved = False
        batches = self._events() if self._sse else self._poll()
        try:
            with about(self._endpoint.target.url):
                async for batch in batches:
                    self._backoff.succeeded()
                    moved = moved or batch.offset != self._offset
                    self._offset = batch.offset or self._offset
                    self.closed = batch.closed
                    yield batch
        except (Rejected, Unreachable) as error:
            if self._sse and self._falls_back(error):
                return
            # Backing off after a response with data would delay the next data.
            if not (moved and is_transient(error)):
                await self._endpoint.rest(self._backoff, error)
            return
        finally:
            await batches.aclose()
        self._backoff.succeeded()
        took = timers.seconds() - began
        if not moved and not self.closed and took < _LEAST_ROUND:
            # A server with a short timeout, or a cache, would cause a busy loop.
            await self._endpoint.pause(_LEAST_ROUND - took)

    def _falls_back(self, error: Rejected | Unreachable) -> bool:
        if self._may_fall_back and isinstance(error, Rejected) and error.status in _NO_SUCH_MODE:
            # If the status has another cause, the long-poll fails with it too.
            self._sse = False
            return True
        return False

    async def _poll(self) -> AsyncGenerator[Batch, None]:
        reading = self._reading
        if reading is None or not reading.begun:
            query = {"offset": self._offset, "live": "long-poll", "cursor": self._cursor}
            reading = self._reading = _Reading(self._endpoint, query, self._content_type)
        batches = reading.batches(wait=QUIET)
        try:
            async for batch in batches:
                self._cursor = reading.header.get("stream-cursor", self._cursor)
                yield batch
        finally:
            await batches.aclose()

    async def _events(self) -> AsyncGenerator[Batch, None]:
        query = {"offset": self._offset, "live": "sse", "cursor": self._cursor}
        response = await self._endpoint.open(header={"Accept": _SSE}, query=query, quiet=QUIET)
        inflow = response.body
        try:
            if content_types.essence(response.header.get("content-type", "")) != _SSE:
                # A server without SSE ignores the parameter and sends a catch-up response.
                raise Rejected(501, response.header, "the server does not support event streams")
            coded = response.header.get("stream-sse-data-encoding", "").lower() == "base64"
            gathering = _Gathering(self._content_type, coded)
            parser = EventParser()
            while (piece := await inflow.take()) is not None:
                for event in parser.feed(piece):
                    batch = gathering.take(event)
                    if batch is not None:
                        self._cursor = gathering.cursor or self._cursor
                        yield batch
                        if batch.closed:
                            return
        finally:
            inflow.close()


class _Gathering:
    """Buffer of data events until the control event that states their end offset."""

    def __init__(self, content_type: str, coded: bool) -> None:
        self._content_type = content_type
        self._coded = coded
        self._data: list[bytes] = []
        self.cursor: str | None = None

    def take(self, event: Event) -> Batch | None:
        """Return the batch that an event completes, or None.

        Raises `BadResponse` for an invalid event.
        """
        if event.type == b"data":
            self._data.append(self._decoded(event.data))
        if event.type != b"control":
            return None
        said = _control(event.data)
        self.cursor = said.get("streamCursor") or self.cursor
        data, self._data = self._joined(), []
        closed = said.get("streamClosed") is True
        up_to_date = closed or said.get("upToDate") is True
        return Batch(self._content_type, data, said["streamNextOffset"], up_to_date, closed)

    def _decoded(self, data: bytes) -> bytes:
        if not self._coded:
            return data
        try:
            return b64decode(data.replace(b"\n", b""), validate=True)
        except ValueError:
            raise BadResponse("a data event is not valid base64") from None

    def _joined(self) -> bytes:
        if len(self._data) > 1 and content_types.is_json(self._content_type):
            found = [message for data in self._data for message in messages.messages(data)]
            return b"[" + b",".join(found) + b"]"
        return b"".join(self._data)


def _control(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("streamNextOffset"), str):
        raise BadResponse("a control event has no streamNextOffset")
    return said


def _read(answer: Answer, content_type: str | None = None) -> Batch:
    closed = is_true(answer, "stream-closed")
    return Batch(
        content_type or answer.header.get("content-type", content_types.DEFAULT),
        answer.body,
        next_offset(answer),
        closed or is_true(answer, "stream-up-to-date"),
        closed,
    )
