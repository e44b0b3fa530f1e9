"""Tests of `durable_streams_tw.telemetry.logs`."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import (
    FileLogObserver,
    Logger,
    LogLevel,
    LogPublisher,
    formatEventAsClassicLogText,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.operators.resources import OperatorTree
from durable_streams_tw.subscriptions.webhook_client import WebhookClient
from durable_streams_tw.telemetry.health import Ready
from durable_streams_tw.telemetry.logs import JSONLog, LineWriter, entry, line_of, open_json_log
from durable_streams_tw.telemetry.metrics import Metrics
from tests.http.server_fixture import MORNING, Client, at_once
from tests.ports import free_port
from tests.service.black_box import PATIENCE, Foreground, command, new_directory

CANARY = "k4n4rienv0gel"

_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.just(object())
)


class EntryTests(SynchronousTestCase):
    """Log events as JSON objects."""

    def logged(self, say: Callable[[Logger], None]) -> dict[str, Any]:
        """Return the JSON object of a log event."""
        events: list[dict[str, Any]] = []
        keep: Any = events.append
        say(Logger("a.place", observer=LogPublisher(keep)))
        (event,) = events
        event["log_time"] = MORNING + 0.25
        logged: dict[str, Any] = json.loads(line_of(event))
        return logged

    def test_flat(self) -> None:
        """An object has the message and the values of the event."""
        self.assertEqual(
            self.logged(lambda log: log.warn("{count} of {name}", count=3, name="x")),
            {
                "time": "2027-01-15T08:00:00.250Z",
                "level": "warn",
                "source": "a.place",
                "message": "3 of x",
                "count": 3,
                "name": "x",
            },
        )

    def test_failure(self) -> None:
        """A failure has its type, its traceback, and the id that the client received."""
        failure = Failure(KeyError("no"))
        logged = self.logged(lambda log: log.failure("Oh {mark}", failure, mark="abc"))
        self.assertEqual(logged["level"], "critical")
        self.assertEqual((logged["message"], logged["request_id"]), ("Oh abc", "abc"))
        self.assertEqual(logged["error"], "builtins.KeyError")
        self.assertIn("KeyError", logged["trace"])
        self.assertNotIn("mark", logged)

    @given(st.dictionaries(st.text(), _values), st.text())
    def test_any_event(self, parts: dict[str, Any], form: str) -> None:
        """Any event is one line with one flat object."""
        line = line_of({"log_format": form, "log_level": LogLevel.info, "log_time": 0.0, **parts})
        self.assertEqual(line.count(b"\n"), 1)
        logged = json.loads(line)
        for value in logged.values():
            self.assertNotIsInstance(value, dict | list)
        for name in ("time", "level", "source", "message"):
            self.assertIsInstance(logged[name], str)

    def test_reserved_names(self) -> None:
        """Values of an event do not replace the standard fields."""
        logged = self.logged(lambda log: log.info("{message}", message="m", source="s", trace="t"))
        self.assertEqual((logged["source"], logged["message"]), ("a.place", "m"))
        self.assertNotIn("trace", logged)

    def test_bounded(self) -> None:
        """Long texts are truncated."""
        logged = self.logged(lambda log: log.info("{text}", text="x" * 100_000))
        self.assertLess(len(json.dumps(logged)), 10_000)

    def test_levels(self) -> None:
        """An event without a level is written with the level info."""
        self.assertEqual(entry({"log_format": "x"})["level"], "info")
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        observer = JSONLog(writer)
        observer({"log_format": "loud", "log_level": LogLevel.error})
        self.assertEqual(json.loads(os.read(reader, 10_000))["message"], "loud")


class RotatedTests(SynchronousTestCase):
    """Log files that another program renames."""

    def test_reopened(self) -> None:
        """After a reopen, events go to a new file."""
        path = Path(self.mktemp())
        log = open_json_log(path)
        self.addCleanup(os.close, log._lines._descriptor)
        log({"log_format": "before", "log_level": LogLevel.info})
        path.rename(path.with_suffix(".1"))
        log({"log_format": "between", "log_level": LogLevel.info})
        log.reopen()
        log({"log_format": "after", "log_level": LogLevel.info})
        old = path.with_suffix(".1").read_text().splitlines()
        new = path.read_text().splitlines()
        self.assertEqual(
            [[json.loads(line)["message"] for line in lines] for lines in (old, new)],
            [["before", "between"], ["after"]],
        )

    def test_cannot_be_opened(self) -> None:
        """If the file cannot be reopened, the previous one stays in use."""
        path = Path(self.mktemp())
        log = open_json_log(path)
        self.addCleanup(os.close, log._lines._descriptor)
        path.rename(path.with_suffix(".1"))
        path.mkdir()
        self.assertRaises(OSError, log.reopen)
        log({"log_format": "after", "log_level": LogLevel.info})
        self.assertIn("after", path.with_suffix(".1").read_text())


class LinesTests(SynchronousTestCase):
    """`LineWriter` on a disk that refuses writes."""

    def setUp(self) -> None:
        self.written = b""
        self.room = 1_000_000
        patched = mock.patch.object(os, "write", self.write)
        patched.start()
        self.addCleanup(patched.stop)

    def write(self, descriptor: int, data: bytes) -> int:
        """Replacement of os.write with limited space."""
        if not self.room:
            raise OSError(28, "No space left on device")
        part = data[: self.room]
        self.room -= len(part)
        self.written += part
        return len(part)

    def test_lost_lines(self) -> None:
        """Lost lines are counted, and the next line has their number."""
        lines = LineWriter(1)
        lines.write(b"one\n")
        self.room = 0
        for _ in range(3):
            lines.write(b"lost\n")
        self.room = 1_000_000
        lines.write(b"two\n")
        lines.write(b"three\n")
        first, logged, *rest = self.written.splitlines()
        self.assertEqual((first, rest), (b"one", [b"two", b"three"]))
        self.assertEqual(json.loads(logged)["lost"], 3)

    def test_partial_line(self) -> None:
        """A partially written line is terminated and counts as lost."""
        lines = LineWriter(1)
        self.room = 3
        lines.write(b"one line\n")
        lines.write(b"another\n")
        self.room = 1_000_000
        lines.write(b"two\n")
        first, logged, last = self.written.splitlines()
        self.assertEqual((first, last), (b"one", b"two"))
        self.assertEqual(json.loads(logged)["lost"], 2)

    @given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30))))
    def test_any_disk(self, steps: list[tuple[int, int]]) -> None:
        """Each line is written or counted, for any sequence of limits."""
        self.written = b""
        lines = LineWriter(1)
        written = 0
        for number, (room, size) in enumerate(steps):
            self.room = room
            lines.write(b"%d:" % number + b"x" * size + b"\n")
            written += 1
        self.room = 1_000_000
        lines.write(b"end\n")
        whole = lost = 0
        for line in self.written.splitlines():
            name, _, rest = line.partition(b":")
            if line.startswith(b'{"level') and line.endswith(b"}"):
                lost += json.loads(line)["lost"]
            elif name.isdigit() and len(rest) == steps[int(name)][1]:
                whole += 1
        # A line without its line end looks complete, and counts as lost.
        self.assertGreaterEqual(whole + lost, written)
        self.assertLessEqual(lost, written)
        self.assertTrue(self.written.endswith(b"end\n"))


class FileTests(SynchronousTestCase):
    """Log files."""

    def test_append(self) -> None:
        """A log file is appended to, and only its owner can read it."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "log")
            for text in ("one", "two"):
                open_json_log(path)({"log_format": text, "log_level": LogLevel.info})
            logged = [json.loads(line)["message"] for line in path.read_text().splitlines()]
            self.assertEqual(logged, ["one", "two"])
            self.assertEqual(path.stat().st_mode & 0o027, 0)


#: Headers of a request, each with a secret.
_FIELDS = (
    *("Authorization", "Cookie", "Content-Type", "Content-Encoding", "Accept", "Origin", "Referer"),
    *("If-None-Match", "Last-Event-ID", "Producer-Id", "Producer-Epoch", "Producer-Seq"),
    *("Stream-Seq", "Stream-TTL", "Stream-Expires-At", "Stream-Closed", "Stream-Forked-From"),
    *("Stream-Fork-Offset", "User-Agent", "X-Forwarded-For", "X-Forwarded-Host", "Expect"),
    *("Proxy-Authorization", "Range", "TE", "Upgrade", "Forwarded", "X-Anything"),
)
_TARGETS = (
    "/v1/stream/a",
    "/v1/stream/missing",
    "/v1/stream/__ds/subscriptions/s",
    "/v1/stream/__ds/subscriptions/s/callback",
    "/v1/stream/__ds/subscriptions/s/claim",
    "/v1/stream/__ds/nothing",
    "/-/ready",
    "/-/metrics",
    "/elsewhere",
)
_BODIES = (
    CANARY,
    f'{{"{CANARY}": "{CANARY}"}}',
    f'["{CANARY}", {CANARY}]',
    f'{{"type": "webhook", "webhook": {{"url": "https://u:{CANARY}@h.example/?t={CANARY}"}}}}',
)


def _requests() -> Iterator[tuple[str, str, dict[str, str], str | None]]:
    """Yield requests with a secret in each header, each kind of body, and the query."""
    yield "PUT", "/v1/stream/a", {"Content-Type": "text/plain"}, CANARY
    for field in _FIELDS:
        value = f"Bearer {CANARY}" if field.endswith("Authorization") else CANARY
        for method, body in (("GET", None), ("PUT", CANARY), ("POST", CANARY)):
            kind = {} if body is None else {"Content-Type": "text/plain"}
            yield method, "/v1/stream/a", kind | {field: value}, body
    everything = {field: CANARY for field in _FIELDS if field not in ("Expect", "Upgrade")}
    for target in _TARGETS:
        for method in ("GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", CANARY.upper()):
            yield method, f"{target}?offset={CANARY}&{CANARY}", everything, None
            for body in _BODIES:
                yield method, target, {"Content-Type": "application/json"}, body


class CanaryTests(SynchronousTestCase):
    """Secrets of requests do not appear in logs, metrics or responses of operator resources."""

    def setUp(self) -> None:
        self.text = StringIO()
        self.lines: list[bytes] = []
        text = FileLogObserver(self.text, formatEventAsClassicLogText)
        observers: tuple[Any, ...] = (text, lambda event: self.lines.append(line_of(event)))
        for observer in observers:
            globalLogPublisher.addObserver(observer)
            self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.clock = Clock()
        self.clock.rightNow = MORNING
        caller = WebhookClient(self.clock, lambda: False, lambda _: succeed([]))
        self.streams = DurableStreams(reactor=self.clock, in_thread=at_once, webhook_client=caller)
        self.streams.startService()
        self.addCleanup(self.streams.stopService)
        self.streams.set_endpoint("http://h.example/v1/stream/", False)
        self.tree = OperatorTree()
        self.observed = self.streams.server_stats()
        self.tree.putChild(b"ready", Ready(self.observed))
        self.tree.putChild(b"metrics", Metrics(self.observed))

    def send(self, *factories: Any) -> int:
        """Send all requests; return the number of responses."""
        answered = 0
        for factory in factories:
            for method, target, header, body in _requests():
                client = Client(factory)
                client.request(method, target, header, None if body is None else body.encode())
                self.clock.pump([0] * 3)
                answered += client.transport.value().startswith(b"HTTP/1.1 ")
                client.leave()
        self.clock.pump([1] * 30)
        return answered

    def check(self) -> None:
        """Search the logs and the operator resources."""
        metrics = Client(self.streams.site(b"x/", self.tree)).ask("GET", "/-/metrics")
        ready = Client(self.streams.site(b"x/", self.tree)).ask("GET", "/-/ready")
        output = self.text.getvalue().encode() + b"".join(self.lines) + metrics.body + ready.body
        self.assertIn(b"durable_streams_commands_total", output)
        self.assertNotIn(CANARY.encode(), output.lower())

    def factories(self) -> list[Any]:
        """Return the factories of both HTTP servers."""
        root = b"v1/stream/"
        return [self.streams.site(root, self.tree), self.streams.http_factory(root, self.tree)]

    def test_all(self) -> None:
        """Requests that succeed and that are refused leak nothing."""
        answered = self.send(*self.factories())
        self.assertGreater(answered, 2 * 0.9 * len(list(_requests())))
        self.check()

    def test_webhooks_that_fail(self) -> None:
        """A webhook's URL may contain a password, which is not logged."""
        (factory, _) = self.factories()
        body = {"type": "webhook", "streams": ["a"], "pattern": "**"}
        body["webhook"] = {"url": f"https://h.example/{CANARY}?t={CANARY}"}  # type: ignore[assignment]
        kind = {"Content-Type": "application/json"}
        name = "/v1/stream/__ds/subscriptions/s"
        made = Client(factory).ask("PUT", name, kind, json.dumps(body).encode())
        self.assertEqual(made.status, 201, made.body)
        plain = {"Content-Type": "text/plain"}
        self.assertEqual(Client(factory).ask("PUT", "/v1/stream/a", plain, b"x").status, 201)
        self.clock.pump([1] * 30)
        self.assertGreater(self.observed.calls["failed"], 0)
        self.assertIn("failed", self.text.getvalue())
        self.check()

    def test_exceptions(self) -> None:
        """An internal error is logged with the id that the client received."""

        def bug(*_: object) -> Deferred[Any]:
            raise RuntimeError("a bug")

        self.patch(self.streams._store, "submit", bug)
        self.patch(self.streams._store, "read", bug)
        self.patch(self.streams._store, "get_state", bug)
        self.send(*self.factories())
        self.assertGreater(len(self.flushLoggedErrors(RuntimeError)), 10)
        logged = [json.loads(line) for line in self.lines]
        marks = [line["request_id"] for line in logged if "request_id" in line]
        self.assertEqual(len(set(marks)), len(marks))
        plain = {"Content-Type": "text/plain"}
        answer = Client(self.factories()[0]).ask("PUT", "/v1/stream/b", plain, b"x")
        self.flushLoggedErrors(RuntimeError)
        mark = json.loads(self.lines[-1])["request_id"]
        self.assertEqual(answer.status, 500)
        self.assertIn(mark, answer.body.decode())
        self.restore_store()
        self.check()

    def restore_store(self) -> None:
        """Undo the fault: operator resources need the store."""
        for name in ("submit", "read", "get_state"):
            delattr(self.streams._store, name)


class ServedTests(TestCase):
    """Logs of the server process."""

    def test_canary(self) -> None:
        """No secret is printed, and each line is a JSON object."""
        directory = new_directory(self)
        where = ("--interface", "127.0.0.1", "--port", "0", "--data-dir", "data")
        with Foreground(directory, "durable-streams", *where, "--log-format", "json") as server:
            answered = 0
            connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            for method, target, header, body in _requests():
                if "Expect" in header or method == CANARY.upper():
                    continue
                connection.request(method, target, body, header)
                answer = connection.getresponse()
                answer.read()
                answered += 1
            connection.close()
            server.stop()
        self.assertGreater(answered, 100)
        self.assertNotIn(CANARY, server.log.lower())
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        self.assertEqual(len(lines), len(server.log.splitlines()))
        self.assertIn("Durable streams are at", "".join(line["message"] for line in lines))

    def test_full_disk(self) -> None:
        """A log on a full disk loses its lines, and requests succeed."""
        if not os.path.exists("/dev/full"):
            self.skipTest("this system has no disk that is always full")
        directory = new_directory(self)
        port = free_port()
        where = ("--interface", "127.0.0.1", "--port", str(port))
        for form in ("json", "text"):
            log = ("--logfile", "/dev/full", "--pidfile=", "-n", "durable-streams")
            line = [*command(*log), *where, "--log-format", form]
            with Foreground(directory, ports=0, line=line) as server:
                until = time.monotonic() + PATIENCE
                while True:
                    try:
                        status = _status(port)
                        break
                    except ConnectionRefusedError:
                        self.assertLess(time.monotonic(), until)
                        time.sleep(0.05)
                self.assertEqual([status, *(_status(port) for _ in range(20))], [404] * 21, form)
                server.stop()


def _status(port: int) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/v1/stream/missing")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()
