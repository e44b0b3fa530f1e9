"""Tests of `durable_streams_tw.telemetry.tracing` with both HTTP servers and a fake collector."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.telemetry.tracing import QUIET, Tracing
from tests.http.server_fixture import MORNING, Client

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


class ThreadedClock(Clock):
    """Clock whose `callFromThread` queues calls."""

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        """Call a function in the next turn."""
        self.callLater(0, call, *arguments)


class TracingTests(SynchronousTestCase):
    """Spans of requests."""

    def setUp(self) -> None:
        self.clock = ThreadedClock()
        self.clock.rightNow = MORNING
        self.collector = InMemorySpanExporter()
        self.tracing = Tracing(self.clock, SimpleSpanProcessor(self.collector))
        self.streams = DurableStreams(reactor=self.clock, wrap_handler=self.tracing.around)
        self.streams.startService()
        self.addCleanup(self.streams.stopService)
        library = logging.getLogger("opentelemetry")
        self.addCleanup(setattr, library, "handlers", library.handlers[:])
        self.addCleanup(setattr, library, "propagate", library.propagate)
        self.tracing.startService()
        self.factories: list[Any] = [self.streams.http_factory(), self.streams.site()]

    def spans(self) -> Sequence[ReadableSpan]:
        """Return the spans since the last call."""
        found = self.collector.get_finished_spans()
        self.collector.clear()
        return found

    def connect(self, factory: Any) -> Client:
        """Open a connection."""
        client = Client(factory)
        self.addCleanup(client.leave)
        return client

    def test_requests(self) -> None:
        """Each request has one span with method, route and status, without the stream's name."""
        for factory in self.factories:
            client = self.connect(factory)
            for method, path, status in (
                ("PUT", "secret-name", 201),
                ("POST", "secret-name", 204),
                ("GET", "secret-name?offset=-1", 200),
                ("GET", "other-secret", 404),
                ("GET", "secret-name?offset=secret", 400),
                ("DELETE", "secret-name", 204),
            ):
                header = {"Content-Type": "text/plain", "Authorization": "Bearer secret"}
                body = b"secret" if method == "POST" else None
                answer = client.ask(method, f"/v1/stream/{path}", header, body)
                self.assertEqual(answer.status, status, path)
                (span,) = self.spans()
                self.assertEqual(span.name, f"{method} /v1/stream/{{stream}}")
                self.assertEqual(span.kind, SpanKind.SERVER)
                self.assertEqual(
                    dict(span.attributes or {}),
                    {
                        "http.request.method": method,
                        "http.route": "/v1/stream/{stream}",
                        "http.response.status_code": status,
                    },
                )
                self.assertEqual(span.status.status_code, StatusCode.UNSET)
                self.assertIsNone(span.parent)
                self.assertNotIn("secret", span.to_json())

    def test_control(self) -> None:
        """The route of a control resource is its kind."""
        for factory in self.factories:
            client = self.connect(factory)
            client.ask("GET", "/v1/stream/__ds/subscriptions/secret")
            client.ask("GET", "/v1/stream/__ds/secret")
            routes = [(span.attributes or {})["http.route"] for span in self.spans()]
            self.assertEqual(routes, ["/v1/stream/__ds/subscriptions/:id", "/v1/stream/__ds/*"])

    def test_parent(self) -> None:
        """A valid traceparent is the parent of the span; an invalid one is ignored."""
        for factory in self.factories:
            client = self.connect(factory)
            for value, parent in ((f"00-{TRACE}-{SPAN}-01", SPAN), ("nonsense", None)):
                client.ask("HEAD", "/v1/stream/a", {"traceparent": value})
                (span,) = self.spans()
                found = None if span.parent is None else f"{span.parent.span_id:016x}"
                self.assertEqual(found, parent)

    def test_long_poll(self) -> None:
        """A long-poll's span ends with its response; without a status if the client disconnects."""
        for factory in self.factories:
            self.connect(factory).ask("PUT", "/v1/stream/w", {"Content-Type": "text/plain"})
            self.spans()
            waits, leaves = self.connect(factory), self.connect(factory)
            for client in (waits, leaves):
                client.request("GET", "/v1/stream/w?offset=now&live=long-poll")
            self.assertEqual(self.spans(), ())
            leaves.leave()
            (left,) = self.spans()
            self.assertNotIn("http.response.status_code", left.attributes or {})
            self.assertEqual(left.status.status_code, StatusCode.UNSET)
            self.connect(factory).ask("DELETE", "/v1/stream/w")
            self.clock.advance(0)
            statuses = [
                (span.attributes or {})["http.response.status_code"] for span in self.spans()
            ]
            self.assertEqual(sorted(map(str, statuses)), ["204", "404"])

    def test_exception(self) -> None:
        """A 500 response is an error in its span, with the id that the client received."""
        self.patch(self.streams._store, "get_state", lambda path: fail(ZeroDivisionError("secret")))
        for factory in self.factories:
            answer = self.connect(factory).ask("HEAD", "/v1/stream/a")
            self.assertEqual(answer.status, 500)
            (span,) = self.spans()
            self.assertEqual(span.status.status_code, StatusCode.ERROR)
            self.assertNotIn("secret", span.to_json())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_collector_errors(self) -> None:
        """Errors of the collector are logged at intervals."""
        said: list[Any] = []
        observer: Any = said.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        library = logging.getLogger("opentelemetry.exporter")
        for _ in range(3):
            library.error("the collector is lost")
        self.assertEqual([event["line"] for event in said], ["the collector is lost"])
        self.clock.advance(QUIET)
        library.error("the collector is lost")
        self.assertEqual(len(said), 2)

    def test_stop(self) -> None:
        """Stopping waits for pending spans for a limited time."""
        stopped: Deferred[None] = self.tracing.stopService()
        self.assertNoResult(stopped)
        self.clock.advance(60)
        self.assertIsNone(self.successResultOf(stopped))


class OffTests(SynchronousTestCase):
    """Tracing disabled."""

    def test_not_imported(self) -> None:
        """Without the setting OpenTelemetry is not imported."""
        program = (
            "import sys, durable_streams_tw.service.make_service;"
            "import durable_streams_tw.service.operator_tree;"
            "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
        )
        self.assertEqual(subprocess.run([sys.executable, "-c", program]).returncode, 0)
