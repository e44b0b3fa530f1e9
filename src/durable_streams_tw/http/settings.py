"""What whoever runs the server may choose."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.auth.rate_limits import Rate
from durable_streams_tw.http import limits
from durable_streams_tw.live.limits import LONG_POLL_TIMEOUT, SSE_RECONNECT_INTERVAL
from durable_streams_tw.storage.limits import MAX_PRODUCERS


class Settings(Struct, frozen=True, kw_only=True):
    """Choices with their defaults. Sizes are bytes, times are seconds.

    ``max_chunk`` is about how much one read returns; without it a read over HTTP returns all up to
    the tail, in one answer, and one inside the process `MAX_CHUNK`.

    ``cors_origins`` are the origins whose pages may use the server, ``*`` for all;
    ``cors_headers`` are header fields that they may send beside those of the protocol.
    ``private`` keeps answers out of shared caches. ``trust_proxy`` believes
    X-Forwarded-Proto and X-Forwarded-Host, which any client can send: only for a server that
    is reached through a proxy that sets them. ``max_connections`` are all of a site, or of
    one address; 0 are any number. ``max_stored`` bounds what streams take on the disk; None is
    no bound but the disk's. ``max_producers`` is how many producers a stream remembers at least.

    ``body_timeout`` is how long a request body may pause. ``max_body_memory`` bounds the bodies of
    all requests together; None is `limits.BODY_MEMORY`, or ``max_body`` where that is more.
    ``max_unread_memory`` bounds what clients of the fast channel leave unread, all together.

    ``public_url`` is the URL of the streams' root as others reach it, a slash at its end: webhooks
    are told to call back there. ``allow_local_webhooks`` lets webhooks lead to this machine's
    loopback, without TLS too. ``rotate_webhook_key`` makes a new signing key at the start, which
    takes over once receivers know it.

    ``allowed_hosts`` are the names by which the server may be called, none are all;
    ``auth_cookie`` is the name of a cookie that may hold a client's token; ``rate`` is how many
    requests each client may make.
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
    rotate_webhook_key: bool = False
    allowed_hosts: tuple[str, ...] = ()
    auth_cookie: str | None = None
    rate: Rate | None = None

    @property
    def body_memory(self) -> int:
        """How many bytes the bodies of all requests may take together."""
        if self.max_body_memory is None:
            return max(limits.BODY_MEMORY, self.max_body)
        return self.max_body_memory
