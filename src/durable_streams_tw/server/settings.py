"""What whoever runs the server may choose."""

from __future__ import annotations

from msgspec import Struct

from durable_streams_tw.protocol import limits


class Settings(Struct, frozen=True, kw_only=True):
    """Choices with their defaults. Sizes are bytes, times are seconds.

    ``cors_origins`` are the origins whose pages may use the server, ``*`` for all.
    ``private`` keeps answers out of shared caches. ``trust_proxy`` believes
    X-Forwarded-Proto and X-Forwarded-Host, which any client can send: only for a server that
    is reached through a proxy that sets them.
    """

    max_body: int = limits.MAX_BODY
    max_chunk: int = limits.MAX_CHUNK
    long_poll_timeout: float = limits.LONG_POLL_TIMEOUT
    sse_reconnect_interval: float = limits.SSE_RECONNECT_INTERVAL
    cors_origins: tuple[str, ...] = ("*",)
    private: bool = False
    trust_proxy: bool = False
