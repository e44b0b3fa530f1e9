"""State and callbacks that the connections of one HTTP/1.1 factory share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure

from durable_streams_tw.http.body_budget import BodyBudget
from durable_streams_tw.http.handlers.streams import Decision, Respond
from durable_streams_tw.http.http1.response import StatusLines
from durable_streams_tw.http.http1.streaming import ChunkCache
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.http.request_head import HeadContext
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.timer_wheel import Timed, TimerWheel
from durable_streams_tw.protocol.errors import Refusal


class Flushable(Protocol):
    """Connection with gathered bytes to send."""

    def flush(self) -> None:
        """Send the gathered bytes."""

    def abort(self) -> None:
        """Reset the connection."""


@dataclass(slots=True)
class ConnectionContext:
    """Everything that an `Http1Connection` needs from its factory.

    ``responder``, ``decide``, ``refuse`` and ``error_response`` are those of the `RequestHandler`.
    ``bodies`` is the budget of request bodies, ``unread`` that of unsent response bytes.
    ``head_context`` takes whether the connection is secure, and its local address.

    The factory's callbacks: ``opened`` and ``closed`` count a connection; ``call_soon`` calls a
    function in the next turn of the reactor; ``flush_soon`` flushes a connection now or at the
    end of this turn; ``check_after`` schedules a deadline check after some seconds and returns
    the current time. ``build_site_protocol`` and ``build_http2_protocol`` return the protocol
    that takes a connection over.
    """

    settings: Settings
    responder: Callable[[str | None], Respond]
    decide: Callable[[str | None, Request], Decision | Deferred[Decision]]
    refuse: Callable[[Refusal, bytes | None], Response]
    error_response: Callable[[Failure, bytes | None], Response]
    bodies: BodyBudget
    unread: BodyBudget
    wheel: TimerWheel
    status_lines: StatusLines
    head_context: Callable[[bool, bytes], HeadContext]
    opened: Callable[[Any], None]
    closed: Callable[[Any], None]
    call_soon: Callable[[Callable[[], None]], object]
    flush_soon: Callable[[Flushable], None]
    check_after: Callable[[Timed, float], float]
    build_site_protocol: Callable[[IAddress | None], Any]
    build_http2_protocol: Callable[[IAddress | None], Any]
    chunks: ChunkCache = field(default_factory=ChunkCache)
    stopping: bool = False
