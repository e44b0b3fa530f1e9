"""Webhook client: one POST to a verified address, bounded in time and size.

Each call checks all addresses of the host name (`outgoing.resolver`, `ssrf_guard`) and connects to
one of these addresses (`webhook_transport`), so a later change of the DNS record has no effect.
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
"""Function that resolves a host name to addresses as text, an empty list if it has none."""

_log: Final = Logger()


class WebhookClient:
    """Client that calls webhooks.

    ``allow_local`` returns whether URLs on this machine are allowed; ``resolve`` replaces the
    resolver in tests.
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
        """Check that a URL is allowed. The Deferred fails with `Refused`.

        A name that cannot be resolved now is checked at the first call.
        """
        return ensureDeferred(self._inspect(url))

    async def _inspect(self, url: str) -> None:
        target = ssrf_guard.target_of(url, self._allow_local())
        try:
            await self._addresses(target)
        except (TimeoutError, TooManyLookups) as late:
            _log.info(
                "Could not resolve webhook host {host} yet: {late}", host=target.host, late=late
            )

    def post(
        self, url: str, body: bytes, header: Mapping[str, str], timeout: float
    ) -> Deferred[WebhookResponse]:
        """Send a body and fire with the response; fail with `Refused` if the URL is not allowed.

        ``timeout`` (seconds, at most `WEBHOOK_TIMEOUT`) covers the whole call. Cancelling aborts
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
