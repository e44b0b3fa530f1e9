"""Operations on one stream (PROTOCOL.md §5)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, get_args

from twisted.internet.defer import DeferredLock

from durable_streams_tw.client.errors import (
    BadTarget,
    InvalidArgument,
    NotFound,
    Rejected,
    Unreachable,
    about,
)
from durable_streams_tw.client.event_loops import settled
from durable_streams_tw.client.follow import Batch, Live, catch_up, follow
from durable_streams_tw.client.messages import as_bytes
from durable_streams_tw.client.producer import Producer
from durable_streams_tw.client.requests import Endpoint, Fields
from durable_streams_tw.client.sender import BatchSender, append_unnumbered
from durable_streams_tw.client.urls import target_of
from durable_streams_tw.client.values import StreamInfo, Written, info, written


class Stream:
    """One stream of a server, made by `StreamClient.stream`.

    All methods accept ``headers`` and ``params`` for their requests, in addition to those of the
    client. The methods that send requests raise `ClientError`.
    """

    def __init__(self, endpoint: Endpoint, base: str) -> None:
        self._endpoint = endpoint
        self._base = base
        self._content_type: str | None = None
        # Appends of this object are those of one idempotent producer.
        self._sender: BatchSender | None = None
        self._seq = 0
        self._appending = DeferredLock()

    @property
    def url(self) -> str:
        """URL of the stream, without credentials."""
        return self._endpoint.target.url

    def __repr__(self) -> str:
        return f"Stream({self.url.partition('?')[0]!r})"

    # -- metadata -------------------------------------------------------------------------------

    async def create(
        self,
        content_type: str | None = None,
        data: bytes | str = b"",
        *,
        ttl: int | None = None,
        expires_at: datetime | str | None = None,
        closed: bool = False,
        headers: Fields | None = None,
        params: Fields | None = None,
    ) -> StreamInfo:
        """Create the stream unless it exists with this configuration (§5.1).

        ``data`` is its first content, ``ttl`` is in seconds. Raises `Conflict` if the stream exists
        with another configuration.
        """
        return await self._put(
            self._endpoint.with_fields(headers, params),
            as_bytes(data),
            ("Content-Type", content_type),
            *_expiry(ttl, expires_at),
            ("Stream-Closed", "true" if closed else None),
        )

    async def fork(
        self,
        to: Stream | str,
        *,
        offset: str | None = None,
        sub_offset: int | None = None,
        ttl: int | None = None,
        expires_at: datetime | str | None = None,
        headers: Fields | None = None,
        params: Fields | None = None,
    ) -> StreamInfo:
        """Create the stream ``to``, which begins with the data of this one (§4.2).

        ``offset`` is the end of the common data, by default the tail; ``sub_offset`` is the number
        of messages or bytes after it. Raises `BadTarget` if ``to`` is on another server.
        """
        fork = to if isinstance(to, Stream) else self._neighbour(to)
        source = self._endpoint.target
        if fork._endpoint.target.origin != source.origin:
            raise BadTarget("a fork is on the same server as its source")
        return await fork._put(
            fork._endpoint.with_fields(headers, params),
            b"",
            *_expiry(ttl, expires_at),
            ("Stream-Forked-From", source.path),
            ("Stream-Fork-Offset", offset),
            ("Stream-Fork-Sub-Offset", sub_offset),
        )

    async def head(
        self, *, headers: Fields | None = None, params: Fields | None = None
    ) -> StreamInfo:
        """Return the current metadata of the stream (§5.5)."""
        endpoint = self._endpoint.with_fields(headers, params)
        answer = await endpoint.insist(lambda: endpoint.ask("HEAD"))
        with about(self.url):
            found = info(answer)
        self._content_type = found.content_type
        return found

    async def content_type(self) -> str:
        """Return the content type of the stream, asking the server if it is not known."""
        try:
            return self._content_type or (await self.head()).content_type
        except NotFound as error:
            # The response to HEAD has no text.
            error.args = ("the stream does not exist: create it first",)
            raise

    async def delete(self, *, headers: Fields | None = None, params: Fields | None = None) -> None:
        """Delete the stream (§5.4)."""
        endpoint = self._endpoint.with_fields(headers, params)
        doubtful = False

        async def attempt() -> None:
            nonlocal doubtful
            try:
                await endpoint.ask("DELETE")
            except Unreachable as error:
                doubtful = doubtful or error.sent
                raise
            except Rejected as error:
                # An earlier attempt, whose response was lost, may have deleted the stream.
                if not (doubtful and error.status in (404, 410)):
                    raise

        await endpoint.insist(attempt)
        self._content_type = None

    # -- writes ---------------------------------------------------------------------------------

    async def append(
        self,
        data: bytes | str,
        *,
        content_type: str | None = None,
        seq: str | None = None,
        close: bool = False,
        idempotent: bool = True,
        producer: str | None = None,
        epoch: int | None = None,
        headers: Fields | None = None,
        params: Fields | None = None,
    ) -> Written:
        """Append data in one request, and close the stream with it if ``close`` is set (§5.2).

        Calls of one `Stream` are carried out one after the other. They are those of an idempotent
        producer with a random name, so the client retries them without appending twice; a server
        remembers its latest producers. With ``idempotent=False``, a request is retried only if it
        had certainly no effect. With ``producer``, the append is the first one of the producer of
        that name and epoch, as those of `producer`; it fences earlier ones.

        ``content_type`` is that of the stream, which the client asks the server for if it does not
        know it. ``seq`` is the Stream-Seq of the append. Raises `OutcomeUnknown` if the data may
        have been appended or not.
        """
        body = as_bytes(data)
        if not body:
            raise InvalidArgument("data", "must not be empty")
        return await self._append(
            body,
            _header(
                ("Content-Type", content_type),
                ("Stream-Closed", "true" if close else None),
                ("Stream-Seq", seq),
            ),
            self._endpoint.with_fields(headers, params),
            BatchSender(self._endpoint.common.wire.wall, producer, epoch) if producer else None,
            idempotent,
        )

    async def append_json(self, *values: object) -> Written:
        """Append values as messages of a JSON stream, in one atomic request."""
        if not values:
            raise InvalidArgument("values", "must not be empty")
        return await self.append(json.dumps(values))

    async def close(
        self,
        data: bytes | str | None = None,
        *,
        headers: Fields | None = None,
        params: Fields | None = None,
    ) -> Written:
        """Close the stream, atomically with a last append if data are given (§5.3).

        Closing a closed stream succeeds unless data are given.
        """
        if data:
            return await self.append(data, close=True, headers=headers, params=params)
        endpoint = self._endpoint.with_fields(headers, params)
        header = {"Stream-Closed": "true"}
        return written(await endpoint.insist(lambda: endpoint.ask("POST", header)))

    def producer(
        self, name: str | None = None, *, content_type: str | None = None, **options: Any
    ) -> Producer:
        """Return an idempotent producer, which batches messages.

        The options are those of `Producer`.
        """
        return Producer(self._endpoint, content_type or self.content_type, name, **options)

    # -- reads ----------------------------------------------------------------------------------

    def read(
        self,
        offset: str = "-1",
        *,
        headers: Fields | None = None,
        params: Fields | None = None,
    ) -> AsyncGenerator[Batch, None]:
        """Yield the data from an offset to the tail (§5.6)."""
        return catch_up(self._endpoint.with_fields(headers, params), _offset(offset))

    def follow(
        self,
        offset: str = "-1",
        *,
        live: Live = "auto",
        headers: Fields | None = None,
        params: Fields | None = None,
    ) -> AsyncGenerator[Batch, None]:
        """Yield the data from an offset on, until the stream is closed (§5.7, §5.8).

        Reconnects after lost connections, without gap or repetition.
        """
        if live not in get_args(Live):
            raise InvalidArgument("live", f"must be one of {get_args(Live)}, not {live!r}")
        return follow(self._endpoint.with_fields(headers, params), _offset(offset), live)

    async def read_bytes(
        self,
        offset: str = "-1",
        *,
        headers: Fields | None = None,
        params: Fields | None = None,
    ) -> bytes:
        """Return the data from an offset to the tail; in JSON mode an array of all messages."""
        batches = [batch async for batch in self.read(offset, headers=headers, params=params)]
        if not batches[-1].is_json or len(batches) == 1:
            return b"".join(batch.data for batch in batches)
        with about(self.url):
            messages = [message for batch in batches for message in batch.messages()]
        return b"[" + b",".join(messages) + b"]"

    async def read_text(
        self,
        offset: str = "-1",
        *,
        headers: Fields | None = None,
        params: Fields | None = None,
    ) -> str:
        """Return the data from an offset to the tail, decoded as UTF-8."""
        data = await self.read_bytes(offset, headers=headers, params=params)
        with about(self.url):
            return Batch("text/plain", data, None, True, False).text()

    async def read_json(
        self,
        offset: str = "-1",
        *,
        headers: Fields | None = None,
        params: Fields | None = None,
    ) -> list[Any]:
        """Return the messages of a JSON stream from an offset to the tail, decoded."""
        found: list[Any] = []
        async for batch in self.read(offset, headers=headers, params=params):
            with about(self.url):
                found += batch.json()
        return found

    # -- parts ----------------------------------------------------------------------------------

    def _neighbour(self, name: str) -> Stream:
        return Stream(Endpoint(self._endpoint.common, target_of(name, self._base)), self._base)

    async def _put(
        self, endpoint: Endpoint, body: bytes, *given: tuple[str, str | int | None]
    ) -> StreamInfo:
        header = _header(*given)
        # PUT is idempotent: a retry returns the stream that the first attempt created.
        answer = await endpoint.insist(lambda: endpoint.ask("PUT", header, body))
        with about(self.url):
            found = info(answer, answer.status == 201)
        self._content_type = found.content_type
        return found

    async def _append(
        self,
        body: bytes,
        header: dict[str, str],
        endpoint: Endpoint,
        named: BatchSender | None,
        idempotent: bool,
    ) -> Written:
        await settled(self._appending.acquire())
        try:
            # Within the lock, so that appends keep the order of their calls.
            if "Content-Type" not in header:
                header["Content-Type"] = await self.content_type()
            if named is not None:
                return await named.send(endpoint, 0, body, header)
            if not idempotent:
                return await append_unnumbered(endpoint, body, header)
            if self._sender is None:
                self._sender = BatchSender(endpoint.common.wire.wall)
                self._seq = 0
            result = await self._sender.send(endpoint, self._seq, body, header)
            self._seq += 1
            return result
        except Rejected:
            # The batch number is free. The stream may have been created again with another type.
            self._content_type = None
            raise
        except BaseException:
            # The batch number may be used, or the server may have forgotten the producer.
            self._sender = None
            raise
        finally:
            self._appending.release()


def _offset(offset: str) -> str:
    if not offset or not isinstance(offset, str):
        raise InvalidArgument("offset", f"must be an offset, '-1' or 'now', not {offset!r}")
    return offset


def _expiry(
    ttl: int | None, expires_at: datetime | str | None
) -> tuple[tuple[str, str | int | None], ...]:
    if ttl is not None and not str(ttl).isdecimal():
        raise InvalidArgument("ttl", f"must be a number of seconds, not {ttl!r}")
    moment = expires_at.isoformat() if isinstance(expires_at, datetime) else expires_at
    return ("Stream-TTL", ttl), ("Stream-Expires-At", moment)


def _header(*given: tuple[str, str | int | None]) -> dict[str, str]:
    return {name: str(value) for name, value in given if value is not None}
