"""Idempotent producer: batches messages and appends each once, in order (PROTOCOL.md §5.2.1)."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, Self

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from durable_streams_tw.client.errors import (
    ClientError,
    InvalidArgument,
    ProducerStopped,
)
from durable_streams_tw.client.event_loops import Starter, settled, starter
from durable_streams_tw.client.messages import as_bytes, is_message
from durable_streams_tw.client.requests import Endpoint
from durable_streams_tw.client.sender import BatchSender
from durable_streams_tw.client.values import Written
from durable_streams_tw.protocol import content_types

_log = Logger()

FailureHook = Callable[[bytes, Exception], object]
"""Function that is called with each message that failed, and its error."""

MAX_BATCH_BYTES: Final = 256 * 1024
MAX_BATCH_MESSAGES: Final = 5_000
MAX_IN_FLIGHT: Final = 4
MAX_BUFFERED_BYTES: Final = 8 * 1024 * 1024
LINGER: Final = 0.005


class Delivery:
    """Message that a producer has accepted. Await it for its `Written`, or its error."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._outcome: Written | Exception | None = None
        self._waiting: list[Deferred[None]] = []

    @property
    def is_settled(self) -> bool:
        """True if the message was appended, or has failed."""
        return self._outcome is not None

    def __await__(self) -> Generator[Any, Any, Written]:
        return self._wait().__await__()

    async def _wait(self) -> Written:
        if self._outcome is None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await settled(waiting)
        assert self._outcome is not None, "settled before those who wait are woken"
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def _settle(self, outcome: Written | Exception) -> None:
        self._outcome = outcome
        _wake(self._waiting)


class Producer:
    """Idempotent producer of one stream, made by `Stream.producer`.

    `append` accepts a message; batches are sent in the background, up to ``max_in_flight`` at a
    time. A batch is sent when it has ``max_batch_bytes`` or ``max_batch_messages``, or ``linger``
    seconds after its first message. `append` waits while ``max_buffered_bytes``, or twice the
    messages of the batches in flight, are not yet acknowledged. Each batch is retried until the
    retry limit of the client, and the server accepts it once.

    Without a ``name``, the producer gets a random name and epoch 0. With a name, it fences earlier
    producers of that name: its epoch is ``epoch``, by default the current time in ms since the
    Unix epoch. With ``claim``, the default without ``epoch``, it claims the next epoch if that one
    is stale.

    After a batch has failed, the producer has stopped: that batch and all messages after it fail,
    so no message is appended after a missing one. ``on_failure`` is called with each of them.

    Use it as an asynchronous context manager, which sends all messages at the end.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        content_type: str | Callable[[], Awaitable[str]],
        name: str | None = None,
        *,
        epoch: int | None = None,
        claim: bool | None = None,
        linger: float = LINGER,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        max_batch_messages: int = MAX_BATCH_MESSAGES,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
        on_failure: FailureHook | None = None,
    ) -> None:
        for argument, value, least in (
            ("linger", linger, 0),
            ("max_batch_bytes", max_batch_bytes, 1),
            ("max_batch_messages", max_batch_messages, 1),
            ("max_in_flight", max_in_flight, 1),
            ("max_buffered_bytes", max_buffered_bytes, 1),
        ):
            if value < least:
                raise InvalidArgument(argument, f"must be at least {least}, not {value}")
        wire = endpoint.common.wire
        self._sender = BatchSender(wire.wall, name, epoch, claim)
        self._endpoint = endpoint
        self._find_content_type = None if isinstance(content_type, str) else content_type
        self._content_type = content_type if isinstance(content_type, str) else ""
        self._linger = linger
        self._max_batch_bytes = max_batch_bytes
        self._max_batch_messages = max_batch_messages
        self._max_in_flight = max_in_flight
        self._max_buffered_bytes = max_buffered_bytes
        # Small messages: a caller that never waits would keep the event loop from sending batches.
        self._max_buffered_messages = 2 * max_in_flight * max_batch_messages
        self._on_failure = on_failure
        self._timers = wire.timers
        self._start: Starter | None = None
        # Messages that are not in a batch yet, and whether they are to be sent without linger.
        self._open: deque[Delivery] = deque()
        self._open_bytes = 0
        self._due = False
        self._timer: IDelayedCall | None = None
        # Accepted messages without outcome, and their bytes.
        self._outstanding: dict[Delivery, None] = {}
        self._buffered = 0
        self._admission = DeferredLock()
        self._waiting_for_room: list[Deferred[None]] = []
        self._in_flight = 0
        self._seq = 0
        self._last: _Batch | None = None
        self._failure: Exception | None = None
        self._stopped = False
        self._closed: Written | None = None

    @property
    def name(self) -> str:
        """Name of the producer."""
        return self._sender.name

    @property
    def epoch(self) -> int:
        """Current epoch of the producer."""
        return self._sender.epoch

    async def append(self, data: bytes | str) -> Delivery:
        """Accept a message: bytes, or in JSON mode the text of one JSON value.

        Waits while too many bytes are unacknowledged. Raises `InvalidArgument` if the message is
        not valid, `ProducerStopped` if an earlier batch has failed.
        """
        message = as_bytes(data)
        if not self._admission.locked and self._content_type and self._has_room():
            return self._accept(message)
        # The lock keeps the order of messages that wait.
        await settled(self._admission.acquire())
        try:
            await self._know_content_type()
            while not self._has_room() and self._failure is None:
                waiting: Deferred[None] = Deferred()
                self._waiting_for_room.append(waiting)
                await settled(waiting)
            return self._accept(message)
        finally:
            self._admission.release()

    async def append_json(self, value: object) -> Delivery:
        """Accept a value, encoded as JSON. Raises like `append`."""
        return await self.append(json.dumps(value))

    async def flush(self) -> None:
        """Send all accepted messages now and wait for them.

        Raises the error of the first batch that failed.
        """
        self._due = bool(self._open)
        self._pump()
        for delivery in list(self._outstanding):
            while not delivery.is_settled:
                waiting: Deferred[None] = Deferred()
                delivery._waiting.append(waiting)
                await settled(waiting)
        if self._failure is not None:
            raise self._failure

    async def close(self, data: bytes | str | None = None) -> Written:
        """Send all messages, then close the stream, atomically with a last message if given.

        A second call returns the result of the first.
        """
        if self._closed is None:
            await self.flush()
            self._check_running()
            if data:
                last = await self._closing(data)
            else:
                last = _Batch(self._next_seq(), b"", {}, [])
            last.header["Stream-Closed"] = "true"
            self._stopped = True
            try:
                self._closed = await self._sender.send(
                    self._endpoint, last.seq, last.data, last.header
                )
            except ClientError as error:
                self._failure = error
                raise
        return self._closed

    async def detach(self) -> None:
        """Send all messages, and stop the producer. The stream stays open."""
        try:
            await self.flush()
        finally:
            self._stopped = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await self.detach()
        else:
            self._stopped = True
            self._drop_open()

    # -- messages -------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._failure is not None or self._stopped:
            raise self._stop_error() from self._failure

    def _stop_error(self) -> ProducerStopped:
        reason = "it was closed" if self._failure is None else f"after: {self._failure}"
        stopped = ProducerStopped(
            f"the message was not sent: producer {self.name!r} stopped, {reason}"
        )
        stopped.url = self._endpoint.target.url.partition("?")[0]
        return stopped

    def _has_room(self) -> bool:
        if len(self._outstanding) >= self._max_buffered_messages:
            return False
        return self._buffered < self._max_buffered_bytes

    def _accept(self, message: bytes) -> Delivery:
        self._check_running()
        if content_types.is_json(self._content_type):
            if not is_message(message):
                raise InvalidArgument("data", f"must be one JSON value, not {message[:80]!r}")
        elif not message:
            raise InvalidArgument("data", "must not be empty")
        if self._start is None:
            self._start = starter()
        delivery = Delivery(message)
        self._outstanding[delivery] = None
        self._buffered += len(message)
        self._open.append(delivery)
        self._open_bytes += len(message)
        if len(self._open) == 1 and self._timer is None:
            self._timer = self._timers.callLater(self._linger, self._lingered)
        self._pump()
        return delivery

    def _lingered(self) -> None:
        self._timer = None
        self._due = bool(self._open)
        self._pump()

    # -- batches --------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send the batches that are due, as far as the number in flight permits."""
        while self._open and self._in_flight < self._limit():
            full = (
                self._open_bytes >= self._max_batch_bytes
                or len(self._open) >= self._max_batch_messages
            )
            if not (full or self._due):
                return
            self._send_one()

    def _limit(self) -> int:
        # The epoch must be known before a second batch can be sent with it.
        return 1 if self._sender.claims else self._max_in_flight

    def _send_one(self) -> None:
        messages: list[Delivery] = []
        size = 0
        while self._open and len(messages) < self._max_batch_messages:
            size += len(self._open[0].data)
            if messages and size > self._max_batch_bytes:
                break
            delivery = self._open.popleft()
            self._open_bytes -= len(delivery.data)
            messages.append(delivery)
        if not self._open:
            self._due = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        batch = self._batch(messages)
        previous, self._last = self._last, batch
        self._in_flight += 1
        assert self._start is not None, "set with the first message"
        self._start(self._send(batch, previous))

    def _batch(self, messages: list[Delivery]) -> _Batch:
        joined = (b"," if self._is_json() else b"").join(one.data for one in messages)
        data = b"[" + joined + b"]" if self._is_json() else joined
        return _Batch(self._next_seq(), data, {"Content-Type": self._content_type}, messages)

    async def _closing(self, data: bytes | str) -> _Batch:
        await self._know_content_type()
        return self._batch([Delivery(as_bytes(data))])

    async def _know_content_type(self) -> None:
        if not self._content_type and self._find_content_type is not None:
            self._content_type = await self._find_content_type()

    def _is_json(self) -> bool:
        return content_types.is_json(self._content_type)

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq - 1

    async def _send(self, batch: _Batch, previous: _Batch | None) -> None:
        async def earlier() -> None:
            if previous is not None and (await previous.settled()) is not None:
                raise self._stop_error() from self._failure

        outcome: Written | Exception
        try:
            outcome = await self._sender.send(
                self._endpoint, batch.seq, batch.data, batch.header, earlier
            )
        except Exception as error:  # noqa: BLE001 - functions for headers may raise anything
            outcome = error
        self._in_flight -= 1
        if isinstance(outcome, Exception):
            self._failure = self._failure or outcome
        self._settle(batch.messages, outcome)
        batch.settle(outcome if isinstance(outcome, Exception) else None)
        if self._failure is not None:
            self._drop_open()
        _wake(self._waiting_for_room)
        self._pump()

    def _drop_open(self) -> None:
        error = self._stop_error()
        dropped = list(self._open)
        self._open.clear()
        self._open_bytes, self._due = 0, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        error.__cause__ = self._failure
        self._settle(dropped, error)

    def _settle(self, messages: list[Delivery], outcome: Written | Exception) -> None:
        for delivery in messages:
            del self._outstanding[delivery]
            self._buffered -= len(delivery.data)
            if isinstance(outcome, Exception) and self._on_failure is not None:
                with _log.failuresHandled("The failure hook of a producer failed"):
                    self._on_failure(delivery.data, outcome)
            delivery._settle(outcome)


class _Batch:
    """Messages that are sent in one request."""

    def __init__(
        self, seq: int, data: bytes, header: dict[str, str], messages: list[Delivery]
    ) -> None:
        self.seq = seq
        self.data = data
        self.header = header
        self.messages = messages
        self._is_settled = False
        self._error: Exception | None = None
        self._waiting: list[Deferred[None]] = []

    async def settled(self) -> Exception | None:
        """Wait for the outcome of the batch; return its error, None if it was appended."""
        if not self._is_settled:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await settled(waiting)
        return self._error

    def settle(self, error: Exception | None) -> None:
        """Record the outcome."""
        self._is_settled, self._error = True, error
        _wake(self._waiting)


def _wake(waiting: list[Deferred[None]]) -> None:
    woken = waiting[:]
    waiting.clear()
    for deferred in woken:
        if not deferred.called:
            deferred.callback(None)
