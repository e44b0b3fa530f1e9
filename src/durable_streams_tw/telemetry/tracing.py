"""OpenTelemetry tracing: a span for each request for a stream.

This module is imported only if tracing is enabled. Spans contain the route template, but no path,
query or header value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from durable_streams_tw import __version__
from durable_streams_tw.clocks import cancel, monotonic_timers
from durable_streams_tw.http.handlers.streams import RequestHandler
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.protocol.subscriptions import control_paths
from durable_streams_tw.telemetry.observing_handler import Begin, Finish, ObservingHandler

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


def begin_span(tracer: Any) -> Begin:
    """Return the function that starts the span of a request.

    A span ends with the head of the response, so that live reads do not keep spans open.
    """

    def begin(request: Request, host: str | None) -> Finish:
        method = _METHODS.get(request.method, _OTHER)
        route = route_of(request)
        span = tracer.start_span(
            f"{'HTTP' if method == _OTHER else method} {route}",
            context=_parent(request),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        )
        return partial(_end, span)

    return begin


def route_of(request: Request) -> str:
    """Return the route template of a request: its path without stream names."""
    root = request.root.decode("latin-1")
    if not control_paths.is_control(request.path):
        return root + "{stream}"
    place = control_paths.parse_control_path(request.path).resource
    return (
        f"{root}__ds/*"
        if place is control_paths.ControlResource.NOTHING
        else f"{root}__ds/{place.value}"
    )


def _parent(request: Request) -> Any:
    carried = {
        name.decode("ascii"): request.headers[name].decode("latin-1")
        for name in _CARRIED
        if name in request.headers
    }
    return _PROPAGATOR.extract(carried) if carried else None


def _end(span: Span, response: Response | None) -> None:
    """End a span. The response is None if the client has disconnected."""
    if response is not None:
        span.set_attribute("http.response.status_code", response.status)
        if response.status >= 500:
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

    def around(self, handler: RequestHandler) -> RequestHandler:
        """Return a handler that traces requests and passes them to ``handler``."""
        tracer = self._provider.get_tracer("durable_streams_tw", __version__)
        return ObservingHandler(handler, begin_span(tracer))

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
                cancel(timeout)
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
