"""Calling webhooks: one POST, to an address that was looked at, bounded in time and size.

Each address that the name has, or had within the last seconds (`outgoing.resolver`), is judged for
every call (`guard`). The connection goes to one of those (`exchange`), whatever the name says a
moment later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError, ensureDeferred
from twisted.logger import Logger

from durable_streams_tw.clocks import monotonic_timers
from durable_streams_tw.outgoing.cancel import cancellable
from durable_streams_tw.outgoing.limits import RESOLVE_TIMEOUT
from durable_streams_tw.outgoing.resolver import Resolver, TooManyLookups
from durable_streams_tw.subscriptions import ssrf_guard
from durable_streams_tw.subscriptions.limits import MAX_WEBHOOK_RESPONSE, WEBHOOK_TIMEOUT
from durable_streams_tw.subscriptions.ssrf_guard import Address, Target
from durable_streams_tw.subscriptions.webhook_response import (
    WebhookResponse,
    WebhookResponseTooLarge,
    WebhookUnreachable,
)

Resolve = Callable[[str], "Deferred[list[str]]"]
"""The addresses of a name, as text; none where it has none."""

_log: Final = Logger()


class WebhookClient:
    """Makes the calls.

    ``reactor`` gives connections and time; ``allow_local`` says whether this machine may be
    called; ``resolve`` stands in for a resolver of its own.
    """

    def __init__(
        self,
        reactor: Any,
        allow_local: Callable[[], bool],
        resolve: Resolve | None = None,
    ) -> None:
        self._reactor = reactor
        self._timers = monotonic_timers(reactor)
        self._allow_local = allow_local
        self._resolve = resolve or Resolver(reactor).resolve

    def inspect(self, url: str) -> Deferred[None]:
        """Whether a URL may be called, as far as can be told before a call.

        Fails with `Refused`. A name that cannot be resolved now is looked at later.
        """
        return ensureDeferred(self._inspect(url))

    async def _inspect(self, url: str) -> None:
        target = ssrf_guard.target_of(url, self._allow_local())
        try:
            await self._addresses(target)
        except (TimeoutError, TooManyLookups) as late:
            _log.info("{host} is not resolved yet: {late}", host=target.host, late=late)

    def post(
        self, url: str, body: bytes, header: Mapping[str, str], timeout: float
    ) -> Deferred[WebhookResponse]:
        """Send a body. Fails with whatever went wrong, `Refused` where the call is not allowed.

        ``timeout`` (in seconds, at most `WEBHOOK_TIMEOUT`) is for all of it. Cancelling ends
        the connection.
        """
        posted = cancellable(ensureDeferred(self._post(url, body, header)))
        return posted.addTimeout(min(timeout, WEBHOOK_TIMEOUT), self._timers)

    async def _post(self, url: str, body: bytes, header: Mapping[str, str]) -> WebhookResponse:
        target = ssrf_guard.target_of(url, self._allow_local())
        addresses = await self._addresses(target)
        if not addresses:
            raise WebhookUnreachable(f"{target.host} has no address")
        # Imported here: treq takes long to import, and most servers never call a webhook.
        from durable_streams_tw.subscriptions import webhook_transport

        response = await webhook_transport.post(self._reactor, target, addresses, url, body, header)
        if len(response.body) > MAX_WEBHOOK_RESPONSE:
            raise WebhookResponseTooLarge(
                f"the response of {target.host} exceeds {MAX_WEBHOOK_RESPONSE} bytes"
            )
        return response

    async def _addresses(self, target: Target) -> list[Address]:
        literal = ssrf_guard.parse_address(target.host)
        if literal is not None:
            found = [str(literal)]
        else:
            found = await self._resolve(target.host).addTimeout(RESOLVE_TIMEOUT, self._timers)
        return ssrf_guard.check_addresses(target, found)
