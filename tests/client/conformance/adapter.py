"""Adapter of our client: carries out the commands of the public suite and reports the results.

It calls the public API as a program would, translates names, and helps with nothing: it does not
retry, compare, buffer or correct.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from durable_streams_tw.client import (
    BadResponse,
    Batch,
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    InvalidArgument,
    InvalidOffset,
    InvalidRequest,
    NotFound,
    Producer,
    RetryPolicy,
    SequenceConflict,
    Stream,
    StreamClient,
    StreamClosed,
    Unauthorized,
    Unreachable,
)
from durable_streams_tw.client.follow import Live

Command = dict[str, Any]
Result = dict[str, Any]

FEATURES = {
    *("batching", "sse", "longPoll", "long-poll", "auto", "streaming", "dynamicHeaders"),
    *("retryOptions", "batchItems", "strictZeroValidation"),
}

# The suite's names of errors, special ones first.
_CODES: tuple[tuple[type[ClientError], str], ...] = (
    (NotFound, "NOT_FOUND"),
    (Gone, "GONE"),
    (StreamClosed, "STREAM_CLOSED"),
    (SequenceConflict, "SEQUENCE_CONFLICT"),
    (Conflict, "CONFLICT"),
    (InvalidOffset, "INVALID_OFFSET"),
    (InvalidRequest, "BAD_REQUEST"),
    (Unauthorized, "UNAUTHORIZED"),
    (Forbidden, "FORBIDDEN"),
    (InvalidArgument, "INVALID_ARGUMENT"),
    (BadResponse, "PARSE_ERROR"),
    (Unreachable, "NETWORK_ERROR"),
    (ClientError, "UNEXPECTED_STATUS"),
)

# The suite's names of arguments, and ours.
_ARGUMENTS = {
    "maxRetries": "max_retries",
    "initialDelayMs": "initial_delay",
    "maxDelayMs": "max_delay",
    "multiplier": "multiplier",
    "producerId": "name",
    "epoch": "epoch",
    "maxBatchBytes": "max_batch_bytes",
    "maxBatchItems": "max_batch_messages",
}


class Adapter:
    """Client under test with the state of one case."""

    def __init__(self, url: str, reactor: Any) -> None:
        self._reactor = reactor
        self._streams: dict[str, Stream] = {}
        self._producers: dict[tuple[str, str, int], Producer] = {}
        self._dynamic: dict[str, dict[str, Callable[[], str]]] = {"headers": {}, "params": {}}
        self._sent: dict[str, dict[str, str]] = {}
        # Status of the last response, which the public API does not report for reads.
        self._status = 200
        self._pool = HTTPConnectionPool(reactor, persistent=False)
        self._client = StreamClient(
            url,
            agent=_Observer(Agent(reactor, pool=self._pool), self._observe),
            headers=lambda: self._note("headers"),
            params=lambda: self._note("params"),
        )

    async def carry_out(self, command: Command) -> Result:
        """Carry out a command; return its result, or the error."""
        kind = command["type"]
        self._sent = {"headers": {}, "params": {}}
        method = getattr(self, "_" + kind.replace("-", "_"))
        try:
            result = await method(command)
        except ClientError as error:
            return {
                "type": "error",
                "success": False,
                "status": error.status,
                "errorCode": next(code for each, code in _CODES if isinstance(error, each)),
                "message": str(error),
                "argument": getattr(error, "argument", None),
            }
        sent = {"headersSent": self._sent["headers"], "paramsSent": self._sent["params"]}
        return {"type": kind, "success": True, "status": 200, **sent, **(result or {})}

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    # -- commands -------------------------------------------------------------------------------

    async def _create(self, command: Command) -> Result:
        info = await self._stream(command).create(
            command.get("contentType"),
            command.get("data") or b"",
            ttl=command.get("ttlSeconds"),
            expires_at=command.get("expiresAt"),
            closed=command.get("closed", False),
            headers=command.get("headers"),
        )
        return {"status": 201 if info.created else 200, "offset": info.offset}

    async def _connect(self, command: Command) -> Result:
        info = await self._stream(command).head(headers=command.get("headers"))
        return {"offset": info.offset}

    async def _head(self, command: Command) -> Result:
        info = await self._stream(command).head(headers=command.get("headers"))
        return {
            "offset": info.offset,
            "contentType": info.content_type,
            "streamClosed": info.closed,
        }

    async def _append(self, command: Command) -> Result:
        data = command["data"]
        written = await self._stream(command).append(
            b64decode(data) if command.get("binary") else data,
            seq=None if command.get("seq") is None else str(command["seq"]),
            headers=command.get("headers"),
        )
        return {"offset": written.offset, "duplicate": written.duplicate}

    async def _close(self, command: Command) -> Result:
        written = await self._stream(command).close(command.get("data"))
        return {"finalOffset": written.offset}

    async def _delete(self, command: Command) -> None:
        await self._stream(command).delete(headers=command.get("headers"))

    async def _read(self, command: Command) -> Result:
        stream = self._stream(command)
        offset = command.get("offset") or "-1"
        headers = command.get("headers")
        result: Result = {"chunks": [], "offset": offset, "upToDate": False, "streamClosed": False}
        live = command.get("live")
        if not live:
            async for batch in stream.read(offset, headers=headers):
                _add(result, batch)
            return {**result, "status": self._status}
        mode: Live = "auto" if live is True else live

        async def follow() -> None:
            batches = stream.follow(offset, live=mode, headers=headers)
            try:
                async for batch in batches:
                    _add(result, batch)
                    if len(result["chunks"]) >= (command.get("maxChunks") or 100):
                        return
                    if command.get("waitForUpToDate") and batch.up_to_date:
                        return
            finally:
                await batches.aclose()

        following = Deferred.fromCoroutine(follow())
        timer = self._reactor.callLater((command.get("timeoutMs") or 5000) / 1000, following.cancel)
        try:
            await following
        except CancelledError:
            # Nothing came for so long: the reader is at the tail.
            result["upToDate"] = True
        finally:
            if timer.active():
                timer.cancel()
        return {**result, "status": self._status}

    async def _idempotent_append(self, command: Command) -> None:
        producer = self._producer(command)
        await producer.append(command["data"])
        await producer.flush()

    async def _idempotent_append_batch(self, command: Command) -> None:
        in_flight = command.get("maxInFlight") or 1
        more: dict[str, Any] = (
            {"max_batch_bytes": 1, "max_in_flight": in_flight} if in_flight > 1 else {}
        )
        async with self._stream(command).producer(
            command["producerId"], epoch=command["epoch"], claim=command["autoClaim"], **more
        ) as producer:
            for item in command["items"]:
                await producer.append(item)

    async def _idempotent_close(self, command: Command) -> Result:
        written = await self._producer(command).close(command.get("data"))
        return {"finalOffset": written.offset}

    async def _idempotent_detach(self, command: Command) -> None:
        await self._producer(command).detach()
        del self._producers[self._key(command)]

    async def _validate(self, command: Command) -> None:
        target = dict(command["target"])
        kind = target.pop("target")
        given = {
            _ARGUMENTS[name]: value / 1000 if name.endswith("Ms") else value
            for name, value in target.items()
        }
        if kind == "retry-options":
            RetryPolicy(**given)
        else:
            self._client.stream("validated").producer(**given)

    async def _set_dynamic_header(self, command: Command) -> None:
        self._set_dynamic("headers", command)

    async def _set_dynamic_param(self, command: Command) -> None:
        self._set_dynamic("params", command)

    async def _clear_dynamic(self, command: Command) -> None:
        for values in self._dynamic.values():
            values.clear()

    def _observe(self, response: IResponse) -> IResponse:
        self._status = response.code
        return response

    # -- state ----------------------------------------------------------------------------------

    def _stream(self, command: Command) -> Stream:
        path = command["path"]
        if path not in self._streams:
            self._streams[path] = self._client.stream(path)
        return self._streams[path]

    def _key(self, command: Command) -> tuple[str, str, int]:
        return command["path"], command["producerId"], command["epoch"]

    def _producer(self, command: Command) -> Producer:
        key = self._key(command)
        if key not in self._producers:
            self._producers[key] = self._stream(command).producer(
                key[1], epoch=key[2], claim=command.get("autoClaim", False)
            )
        return self._producers[key]

    def _set_dynamic(self, kind: str, command: Command) -> None:
        count = 0

        def value() -> str:
            nonlocal count
            count += 1
            if command["valueType"] == "counter":
                return str(count)
            if command["valueType"] == "timestamp":
                return str(int(time.time() * 1000))
            token: str = command["initialValue"]
            return token

        self._dynamic[kind][command["name"]] = value

    def _note(self, kind: str) -> dict[str, str]:
        """Return the dynamic headers or parameters of a request, and remember them."""
        sent = self._sent[kind] = {name: get() for name, get in self._dynamic[kind].items()}
        return sent


@implementer(IAgent)
class _Observer:
    """Agent that passes each response to a function."""

    def __init__(self, agent: IAgent, observe: Callable[[IResponse], IResponse]) -> None:
        self._agent = agent
        self._observe = observe

    def request(self, *arguments: Any, **more: Any) -> Deferred[IResponse]:
        requested: Deferred[IResponse] = self._agent.request(*arguments, **more)
        return requested.addCallback(self._observe)


def _add(result: Result, batch: Batch) -> None:
    data = batch.data
    if batch.is_json and not batch.messages():
        data = b""
    if data:
        text = data.decode("utf-8", "replace")
        result["chunks"].append({"data": text, "offset": batch.offset})
    result["offset"] = batch.offset or result["offset"]
    result["upToDate"] = batch.up_to_date
    result["streamClosed"] = batch.closed


def suite_name(argument: str) -> str:
    """Return the suite's name of an argument of ours."""
    return next((name for name, own in _ARGUMENTS.items() if own == argument), argument)


def compact(value: object) -> str:
    """Return a value as JSON, as the suite writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
