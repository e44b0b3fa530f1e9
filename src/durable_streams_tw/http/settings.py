"""Settings of a server."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.auth.rate_limits import Rate
from durable_streams_tw.http import limits
from durable_streams_tw.live.limits import LONG_POLL_TIMEOUT, SSE_RECONNECT_INTERVAL
from durable_streams_tw.storage.limits import MAX_PRODUCERS


class Settings(Struct, frozen=True, kw_only=True):
    """Settings of a `DurableStreams` and their defaults. Sizes are bytes, times are seconds.

    Parameters
    ----------
    max_body
        Largest request body.
    max_chunk
        Approximate size of one read. None: over HTTP everything up to the tail, in the process
        1 MiB.
    max_stored
        Largest size of all streams on disk. None: as much as the disk holds.
    max_producers
        Producers that a stream remembers at least.
    cors_origins
        Origins whose pages may use the server; ``*`` allows all.
    cors_headers
        Request headers that CORS allows besides those of the protocol.
    private
        Forbid shared caches to store responses.
    trust_proxy
        Trust X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host. Only for a server behind a
        proxy that sets them, as any client can send them.
    body_timeout
        Longest pause within a request body.
    max_body_memory
        Bound on the bodies of all requests together. None: 256 MiB, or ``max_body`` if that is
        more.
    max_unread_memory
        Bound on the response bytes that clients leave unread, all connections together.
    max_connections, max_connections_per_address
        Largest number of open connections; 0 is unlimited.
    public_url
        URL of the streams' root as clients reach it, with a slash at its end. Webhook receivers
        call back there.
    allow_local_webhooks
        Allow webhooks to loopback addresses, also without TLS.
    webhook_keys
        File with the signing keys and the secret of wake tokens, which other servers may share.
    rotate_webhook_key
        Make a new signing key at start, which signs ten minutes later.
    allowed_hosts
        Host names by which clients may call the server. Empty: all.
    auth_cookie
        Name of a cookie that may hold a client's token.
    rate
        Rate limit of each client: `auth.rate_limits.Rate` of a number of requests and seconds.
    """

    max_body: int = limits.MAX_BODY
    max_chunk: int | None = None
    max_stored: int | None = None
    max_producers: int = MAX_PRODUCERS
    long_poll_timeout: float = LONG_POLL_TIMEOUT
    sse_reconnect_interval: float = SSE_RECONNECT_INTERVAL
    cors_origins: tuple[str, ...] = ("*",)
    cors_headers: tuple[str, ...] = ()
    private: bool = False
    trust_proxy: bool = False
    head_timeout: float = limits.HEAD_TIMEOUT
    body_timeout: float = limits.BODY_TIMEOUT
    max_body_memory: int | None = None
    max_unread_memory: int = limits.UNREAD_MEMORY
    idle_timeout: float = limits.IDLE_TIMEOUT
    max_connections: int = limits.MAX_CONNECTIONS
    max_connections_per_address: int = 0
    public_url: str | None = None
    allow_local_webhooks: bool = False
    webhook_keys: str | None = None
    rotate_webhook_key: bool = False
    allowed_hosts: tuple[str, ...] = ()
    auth_cookie: str | None = None
    rate: Rate | None = None

    @property
    def body_memory(self) -> int:
        """Return the bound on the bodies of all requests together, in bytes."""
        if self.max_body_memory is None:
            return max(limits.BODY_MEMORY, self.max_body)
        return self.max_body_memory
