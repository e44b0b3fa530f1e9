"""Requests with the headers, parameters, retries and hooks of a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from random import random
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.task import deferLater

from durable_streams_tw.client.backoff import Backoff, RetryEvent, RetryPolicy
from durable_streams_tw.client.errors import (
    ClientError,
    Rejected,
    Unreachable,
    about,
    rejection,
    retry_after,
)
from durable_streams_tw.client.event_loops import settled, value_of
from durable_streams_tw.client.transport import Answer, Response, Wire
from durable_streams_tw.client.urls import Target

T = TypeVar("T")

Value = str | Callable[[], str | Awaitable[str]]
"""Value of a header or parameter, or a function that returns it at each request."""

Fields = Mapping[str, Value] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""Headers or parameters, or a function that returns them at each request."""

ErrorHook = Callable[[ClientError], bool | Awaitable[bool]]
"""Function that is called with a permanent error; if it returns True, the request is repeated."""

RetryHook = Callable[[RetryEvent], object]
"""Function that is called before the client waits for the next attempt."""

_UNAUTHORIZED: Final = 401
Query = Mapping[str, str | None]


async def resolved(fields: Fields) -> dict[str, str]:
    """Return headers or parameters for one request, calling their functions."""
    given: Mapping[str, Value]
    if callable(fields):
        called: Mapping[str, str] | Awaitable[Mapping[str, str]] = fields()
        given = await value_of(called)
    else:
        given = fields
    found = {}
    for name, value in given.items():
        returned: str | Awaitable[str] = value() if callable(value) else value
        found[name] = await value_of(returned)
    return found


class Common(Struct, frozen=True):
    """Properties common to all requests of a client.

    ``random`` returns a number from 0 to 1, for jitter.
    """

    wire: Wire
    headers: tuple[Fields, ...] = ()
    params: tuple[Fields, ...] = ()
    retry: RetryPolicy = RetryPolicy()
    on_error: ErrorHook | None = None
    on_retry: RetryHook | None = None
    random: Callable[[], float] = random


class Endpoint(Struct, frozen=True):
    """One URL, and the properties of the requests for it.

    The methods that send requests raise `ClientError`.
    """

    common: Common
    target: Target

    def with_fields(self, headers: Fields | None, params: Fields | None) -> Endpoint:
        """Return the endpoint with more headers and parameters; later ones take precedence."""
        if headers is None and params is None:
            return self
        common = self.common
        more = replace(
            common,
            headers=common.headers if headers is None else (*common.headers, headers),
            params=common.params if params is None else (*common.params, params),
        )
        return Endpoint(more, self.target)

    async def ask(
        self,
        method: str,
        header: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Query | None = None,
    ) -> Answer:
        """Send a request and return its whole response, without retries of failures.

        Raises `Rejected` unless the status is 2xx.
        """
        with about(self.target.url):
            response = await self.open(method, header, body, query)
            return await response.whole()

    async def open(
        self,
        method: str = "GET",
        header: Mapping[str, str] | None = None,
        body: bytes | None = None,
        query: Query | None = None,
        wait: float | None = None,
        quiet: float | None = None,
    ) -> Response:
        """Send a request and return its response once the head is there (see `Wire.open`).

        The caller must close the body. Raises `Rejected` unless the status is 2xx.
        """
        wire = self.common.wire
        with about(self.target.url):
            fields = await self._fields(header)
            response = await wire.open(method, await self._url(query), fields, body, wait, quiet)
            if response.status == _UNAUTHORIZED:
                # The token may have expired before the server checked it: use the renewed one.
                refused = await response.whole()
                renewed = await self._fields(header)
                if renewed == fields:
                    raise rejection(refused.status, refused.header, refused.body)
                url = await self._url(query)
                response = await wire.open(method, url, renewed, body, wait, quiet)
            if not 200 <= response.status < 300:
                refused = await response.whole()
                raise rejection(refused.status, refused.header, refused.body)
            return response

    async def insist(
        self,
        attempt: Callable[[], Awaitable[T]],
        again: Callable[[Rejected | Unreachable], bool] = lambda _: True,
    ) -> T:
        """Call ``attempt`` until it succeeds, and return its result.

        Retries transient errors for which ``again`` returns true, that is, if the request can be
        repeated safely. Raises other errors, and the last one when a retry limit is reached.
        """
        backoff = self.backoff()
        while True:
            try:
                return await attempt()
            except (Rejected, Unreachable) as error:
                if not again(error):
                    raise
                await self.rest(backoff, error)

    def backoff(self) -> Backoff:
        """Return a new backoff for one operation."""
        common = self.common
        return Backoff(common.retry, common.wire.timers.seconds, common.random)

    async def rest(self, backoff: Backoff, error: Rejected | Unreachable) -> None:
        """Wait before the next attempt.

        Raises ``error`` if it is permanent, unless the error hook asks for a retry, and if a retry
        limit is reached. The policy may exclude errors before the first response.
        """
        common = self.common
        asked = 0.0
        if isinstance(error, Rejected):
            asked = retry_after(error.header, common.wire.wall())
        pause = backoff.failed(asked)
        if pause is None or not is_transient(error) or self._is_absent(error):
            if not await self._repeats(error):
                raise error
            pause = common.retry.max_delay if pause is None else pause
        if common.on_retry is not None:
            common.on_retry(RetryEvent(error, backoff.failures, pause))
        await self.pause(pause)

    def _is_absent(self, error: Rejected | Unreachable) -> bool:
        """Return whether there is no server, and the policy is not to wait for one."""
        common = self.common
        if common.retry.wait_for_server or common.wire.has_responded:
            return False
        return isinstance(error, Unreachable) and not error.sent

    async def _repeats(self, error: ClientError) -> bool:
        hook = self.common.on_error
        return hook is not None and bool(await value_of(hook(error)))

    async def pause(self, seconds: float) -> None:
        """Wait for a time in seconds."""
        clock: Any = self.common.wire.timers
        await settled(deferLater(clock, seconds))

    async def _fields(self, header: Mapping[str, str] | None) -> dict[str, str]:
        fields: dict[str, str] = {}
        if self.target.authorization is not None:
            fields["Authorization"] = self.target.authorization
        for given in self.common.headers:
            fields.update(await resolved(given))
        return {**fields, **(header or {})}

    async def _url(self, query: Query | None) -> str:
        params: dict[str, str | None] = {}
        for given in self.common.params:
            params.update(await resolved(given))
        return self.target.asked(**{**params, **(query or {})})


def is_transient(error: Rejected | Unreachable) -> bool:
    """Return whether the same request may succeed later."""
    return isinstance(error, Unreachable) or error.transient
