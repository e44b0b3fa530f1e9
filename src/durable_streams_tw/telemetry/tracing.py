"""OpenTelemetry tracing: a span for each request for a stream.

This module is imported only if tracing is enabled. Spans contain the route template, but no path,
query or header value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Thread
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw import __version__
from durable_streams_tw.clocks import monotonic_timers
from durable_streams_tw.http.handlers.deferred_result import as_deferred
from durable_streams_tw.http.handlers.streams import Decision, RequestHandler, Respond
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.subscriptions.control_paths import (
    ControlResource,
    is_control,
    parse_control_path,
)

FLUSH_TIMEOUT: Final = 3.0
"""Maximum time that the export of remaining spans delays the shutdown (seconds)."""

QUIET: Final = 60.0
"""Minimum time between two log lines about the exporter (seconds)."""

_METHODS: Final = {
    method: method.decode("ascii")
    for method in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS")
}
_OTHER: Final = "_OTHER"
_CARRIED: Final = (b"traceparent", b"tracestate")
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_LIBRARY: Final = "opentelemetry"


class TracingHandler:
    """Request handler that records a span for each request.

    A span ends with the head of the response, so that live reads do not keep spans open.
    """

    def __init__(self, operations: RequestHandler, tracer: Any) -> None:
        self._operations = operations
        self._tracer = tracer

    def responder(self, host: str | None) -> Respond:
        """Return the function that handles requests of a connection from an address."""
        inner = self._operations.responder(host)
        return lambda request: self._traced(request, inner)

    def decide(self, host: str | None, request: Request) -> Decision | Deferred[Decision]:
        """Decide on a request by its head; record the span of a refused request."""
        decision = self._operations.decide(host, request)
        if isinstance(decision, Deferred):
            return decision.addCallback(self._decided, request)
        return self._decided(decision, request)

    def _decided(self, decision: Decision, request: Request) -> Decision:
        if not isinstance(decision, Response):
            return lambda whole: self._traced(whole, decision)
        refused = decision
        self._traced(request, lambda _: refused)
        return refused

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """Return the response for a refusal, for a request with this Origin."""
        return self._operations.refuse(refusal, origin)

    def error_response(self, failure: Failure, origin: bytes | None) -> Response:
        """Return the response for a request whose handler has failed."""
        return self._operations.error_response(failure, origin)

    def _traced(self, request: Request, respond: Respond) -> Response | Deferred[Response]:
        method = _METHODS.get(request.method, _OTHER)
        route = route_of(request)
        span = self._tracer.start_span(
            f"{'HTTP' if method == _OTHER else method} {route}",
            context=_parent(request),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        )
        try:
            answer = respond(request)
        except BaseException:
            _end(span, 500)
            raise
        if isinstance(answer, Response):
            _end(span, answer.status)
            return answer
        later: Any = as_deferred(answer)
        traced: Deferred[Response] = later.addBoth(self._answered, span, request)
        return traced

    def _answered(self, answer: Response | Failure, span: Span, request: Request) -> Any:
        if isinstance(answer, Failure) and answer.check(CancelledError) is None:
            # The connection would build the same response, but then the span would lack its status.
            answer = self._operations.error_response(answer, request.headers.get(b"origin"))
        _end(span, answer.status if isinstance(answer, Response) else None)
        return answer


def route_of(request: Request) -> str:
    """Return the route template of a request: its path without stream names."""
    root = request.root.decode("latin-1")
    if not is_control(request.path):
        return root + "{stream}"
    place = parse_control_path(request.path).resource
    return f"{root}__ds/*" if place is ControlResource.NOTHING else f"{root}__ds/{place.value}"


def _parent(request: Request) -> Any:
    carried = {
        name.decode("ascii"): request.headers[name].decode("latin-1")
        for name in _CARRIED
        if name in request.headers
    }
    return _PROPAGATOR.extract(carried) if carried else None


def _end(span: Span, status: int | None) -> None:
    """End a span. The status is None if the client has disconnected."""
    if status is not None:
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
    span.end()


class Tracing(Service):
    """Service that exports spans, configured by the ``OTEL_*`` environment variables.

    ``processor`` replaces the exporter in tests. Start the service before the services that it
    traces, and stop it after them.
    """

    def __init__(self, reactor: Any, processor: SpanProcessor | None = None) -> None:
        self._reactor = reactor
        self._timers = monotonic_timers(reactor)
        self._processor = processor
        resource = Resource.create({SERVICE_NAME: "durable-streams", SERVICE_VERSION: __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._complaints = _ExporterLog(self._timers.seconds)

    def around(self, operations: RequestHandler) -> RequestHandler:
        """Return a handler that traces requests and passes them to ``operations``."""
        return TracingHandler(
            operations, self._provider.get_tracer("durable_streams_tw", __version__)
        )

    def startService(self) -> None:
        """Start the exporter and its thread.

        Call this after a daemon has forked, because threads do not survive a fork.
        """
        Service.startService(self)
        library = logging.getLogger(_LIBRARY)
        library.addHandler(self._complaints)
        library.propagate = False
        processor = self._processor or BatchSpanProcessor(OTLPSpanExporter())
        self._provider.add_span_processor(processor)

    def stopService(self) -> Deferred[None]:
        """Export the remaining spans, for at most `FLUSH_TIMEOUT` seconds."""
        Service.stopService(self)
        stopped: Deferred[None] = Deferred()

        def end() -> None:
            if not stopped.called:
                if timeout.active():
                    timeout.cancel()
                logging.getLogger(_LIBRARY).removeHandler(self._complaints)
                stopped.callback(None)

        def flush() -> None:
            self._provider.shutdown()
            self._reactor.callFromThread(end)

        timeout = self._timers.callLater(FLUSH_TIMEOUT, end)
        # In the reactor's thread pool, a library call that blocks for 30 s would delay the exit.
        Thread(target=flush, name="durable-streams-spans", daemon=True).start()
        return stopped


class _ExporterLog(logging.Handler):
    """Logging handler that forwards the exporter's messages to the log at a limited rate."""

    _log = Logger(namespace=__name__)

    def __init__(self, seconds: Callable[[], float]) -> None:
        logging.Handler.__init__(self, logging.WARNING)
        self._seconds = seconds
        self._logged_at: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Log a message unless one was logged within `QUIET` seconds."""
        now = self._seconds()
        if self._logged_at is None or now - self._logged_at >= QUIET:
            self._logged_at = now
            self._log.warn("OpenTelemetry exporter: {line}", line=record.getMessage())
