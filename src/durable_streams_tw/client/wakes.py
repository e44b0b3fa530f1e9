"""Work of a subscription: a claimed wake, its streams, its lease (PROTOCOL.md §7)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from durable_streams_tw.client.client import StreamClient
from durable_streams_tw.client.errors import (
    BadResponse,
    ClientError,
    Conflict,
    Fenced,
    Unauthorized,
    about,
)
from durable_streams_tw.client.event_loops import CANCELLED, starter, value_of
from durable_streams_tw.client.follow import Batch
from durable_streams_tw.client.requests import Endpoint
from durable_streams_tw.client.stream import Stream

#: Usual duration of a lease (seconds).
LEASE: Final = 30.0

#: Heartbeats during one lease.
_HEARTBEATS: Final = 3


class PendingStream(Struct, frozen=True, eq=False):
    """Stream of a wake, with data between the acknowledged offset and the tail.

    ``path`` is relative to the root of the streams; ``stream`` reads it.
    """

    path: str
    acked_offset: str
    tail_offset: str
    stream: Stream


class Wake:
    """Work that a subscription has handed out to this program.

    The lease is renewed until the handler returns. Then the data that `batches` has yielded are
    acknowledged, and all data of streams that were not read with it.
    """

    def __init__(
        self,
        client: StreamClient,
        endpoint: Endpoint,
        given: Mapping[str, Any],
        releasing: Endpoint | None = None,
        lease: float = LEASE,
    ) -> None:
        with about(endpoint.target.url):
            try:
                self.id = str(given["wake_id"])
                self.generation = int(given["generation"])
                self._token = str(given.get("token") or given["callback_token"])
                self.streams = [
                    PendingStream(
                        one["path"],
                        one["acked_offset"],
                        one["tail_offset"],
                        client.stream(one["path"]),
                    )
                    for one in given["streams"]
                    if one.get("has_pending", True)
                ]
            except (KeyError, TypeError, ValueError):
                raise BadResponse("the server's wake is not one of the protocol") from None
        self._endpoint = endpoint
        self._releasing = releasing
        self._lease = float(given.get("lease_ttl_ms") or lease * 1000) / 1000
        self._reached = {one.path: one.tail_offset for one in self.streams}
        self._renewing = False
        self._lost: ClientError | None = None

    async def batches(self) -> AsyncGenerator[tuple[PendingStream, Batch], None]:
        """Yield the unacknowledged data of all streams, one stream after the other.

        A batch counts as processed when the next one is requested.
        """
        for pending in self.streams:
            self._reached[pending.path] = pending.acked_offset
            async for batch in pending.stream.read(pending.acked_offset):
                yield pending, batch
                if batch.offset is not None:
                    self._reached[pending.path] = batch.offset

    async def ack(self, pending: PendingStream, offset: str) -> None:
        """Acknowledge the data of a stream up to an offset now, and renew the lease.

        Raises `Fenced` if the lease was lost.
        """
        self._reached[pending.path] = offset
        await self._tell([(pending.path, offset)], done=False)

    async def _handle(
        self,
        handler: Callable[[Wake], Awaitable[object]],
        lease_starts: Callable[[], bool] = lambda: True,
    ) -> None:
        """Run a handler, renew the lease meanwhile, and acknowledge the data at its end.

        The lease is renewed while ``lease_starts()`` is true. Raises the error of the handler,
        `Fenced` if the lease was lost, which cancels the handler, and other errors of the client.
        """
        start = starter()
        self._renewing = True

        async def work() -> None:
            handled: Any = handler(self)
            await value_of(handled)

        async def renew() -> None:
            while True:
                await self._endpoint.pause(self._lease / _HEARTBEATS)
                if not self._renewing:
                    return
                if not lease_starts():
                    continue
                try:
                    await self._tell([], done=False)
                except ClientError as error:
                    if self._renewing:
                        self._lost = error
                        working.cancel()
                    return

        working: Any = start(work())
        renewing: Any = start(renew())
        try:
            await working
        except CANCELLED:
            working.cancel()
            if self._lost is None:
                raise
            raise self._lost from None
        finally:
            self._renewing = False
            _stop(renewing)
        acked = {one.path: one.acked_offset for one in self.streams}
        await self._tell(
            [(path, at) for path, at in self._reached.items() if at != acked[path]], done=True
        )

    async def _release(self) -> None:
        """Give a pull-wake back without acknowledging more, so that another worker claims it."""
        if self._releasing is not None:
            await self._post(self._releasing, {})

    async def _tell(self, acks: list[tuple[str, str]], done: bool) -> None:
        body: dict[str, Any] = {"acks": [{"stream": path, "offset": at} for path, at in acks]}
        if done:
            body["done"] = True
        answered = await self._post(self._endpoint, body)
        # A server replaces tokens that will expire.
        self._token = str(answered.get("token") or self._token)

    async def _post(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        body |= {"wake_id": self.id, "generation": self.generation}
        try:
            return await post_json(endpoint, body, self._token)
        except (Conflict, Unauthorized) as error:
            if isinstance(error, Conflict) and error.problem != "FENCED":
                raise
            fenced = Fenced(f"the wake is over: {error.args[0]}")
            fenced.url, fenced.status, fenced.problem = error.url, error.status, error.problem
            raise fenced from error


async def post_json(
    endpoint: Endpoint, body: Mapping[str, Any], token: str | None = None
) -> dict[str, Any]:
    """POST a JSON object with a token; return the JSON object of the response, empty if none.

    Retries transient errors.
    """
    header = {"Content-Type": "application/json"}
    if token is not None:
        header["Authorization"] = f"Bearer {token}"
    data = json.dumps(body).encode()
    answer = await endpoint.insist(lambda: endpoint.ask("POST", header, data))
    if not answer.body:
        return {}
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        with about(endpoint.target.url):
            raise BadResponse("the server's answer is not a JSON object")
    return said


def _stop(background: Any) -> None:
    if hasattr(background, "addErrback"):
        background.addErrback(lambda _: None)
    background.cancel()
