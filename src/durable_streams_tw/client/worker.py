"""Worker of a pull-wake subscription (PROTOCOL.md §7.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from uuid import uuid4

from twisted.logger import Logger

from durable_streams_tw.client.backoff import Backoff, RetryPolicy
from durable_streams_tw.client.client import StreamClient
from durable_streams_tw.client.errors import ClientError, Conflict, Fenced
from durable_streams_tw.client.event_loops import CANCELLED
from durable_streams_tw.client.wakes import Wake, post_json

_log = Logger()

_NOTHING_TO_CLAIM: Final = frozenset({"NO_PENDING_WORK", "ALREADY_CLAIMED"})
_PAUSES: Final = RetryPolicy(retry_for=None, initial_delay=1.0, max_delay=60.0)


class PullWakeWorker:
    """Worker that claims the wakes of a pull-wake subscription and runs a handler for each.

    ``client`` has the root of the streams as its URL. ``handler`` is a coroutine function; a wake
    is acknowledged when it returns. If it fails, the wake is released, the error is logged or
    passed to ``on_failure``, and the next claim waits for 1 to 60 s. If the lease is lost, the
    handler is cancelled. ``name`` is the name of the worker, random by default.
    """

    def __init__(
        self,
        client: StreamClient,
        subscription: str,
        wake_stream: str,
        handler: Callable[[Wake], Awaitable[object]],
        *,
        name: str | None = None,
        on_failure: Callable[[Exception], object] | None = None,
    ) -> None:
        self.name = str(uuid4()) if name is None else name
        self._client = client
        self._handler = handler
        self._on_failure = on_failure
        self._wakes = client.stream(wake_stream)
        claim, ack, release = (
            client.endpoint(f"__ds/subscriptions/{subscription}/{action}")
            for action in ("claim", "ack", "release")
        )
        self._claiming, self._acking, self._releasing = claim, ack, release
        self._pauses = Backoff(_PAUSES, claim.common.wire.timers.seconds, claim.common.random)

    async def run(self) -> None:
        """Claim and handle wakes for ever; cancel it to stop.

        Cancelling it cancels the handler and releases the wake. Raises `ClientError` for permanent
        errors, and when a retry limit of the client is reached.
        """
        # The offset is from before the first claim, so the event of a later wake is not missed.
        offset = (await self._wakes.head()).offset
        await self.work()
        events = self._wakes.follow(offset)
        try:
            async for event in events:
                if event.data:
                    await self.work()
        finally:
            await events.aclose()

    async def work(self) -> None:
        """Claim and handle wakes until there is nothing to claim. Raises like `run`."""
        while (wake := await self._claim()) is not None:
            try:
                await wake._handle(self._handler)
            except Fenced as error:
                _log.warn("Worker {name}: {error}", name=self.name, error=error)
            except CANCELLED:
                await self._release(wake)
                raise
            except Exception as error:  # noqa: BLE001 - handlers may fail in any way
                await self._fail(wake, error)
            else:
                self._pauses.succeeded()

    async def _claim(self) -> Wake | None:
        try:
            claimed = await post_json(self._claiming, {"worker": self.name})
        except Conflict as error:
            if error.problem not in _NOTHING_TO_CLAIM:
                raise
            return None
        return Wake(self._client, self._acking, claimed, self._releasing)

    async def _fail(self, wake: Wake, error: Exception) -> None:
        if self._on_failure is None:
            _log.error("Worker {name}: a handler failed: {error!r}", name=self.name, error=error)
        else:
            self._on_failure(error)
        pause = self._pauses.failed()
        await self._release(wake)
        await self._claiming.pause(pause or 0.0)

    async def _release(self, wake: Wake) -> None:
        try:
            await wake._release()
        except ClientError as error:
            # The wake may be over: its acknowledgement was sent, or the lease has expired.
            _log.info("Worker {name}: {error}", name=self.name, error=error)
