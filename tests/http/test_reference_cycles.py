"""Tests that no object of a request, a connection or a batch is part of a reference cycle.

The server's garbage collector runs rarely (`service.process_tuning`), and never while the server is
idle, so an object in a cycle keeps its bytes. Each test disables the collector, lets one client do
one thing and disconnect, and then checks what the collector finds: no object of the package and no
large body, with both HTTP servers, both stores, and with or without authorization.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from io import BytesIO
from types import FrameType, FunctionType, MethodType
from typing import Any, ClassVar

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import durable_streams_tw
from durable_streams_tw.auth.identities import Identity
from durable_streams_tw.auth.rate_limits import Rate
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.durable.store import DurableStore
from tests.http.authorization_case import FakeTokenChecker, granting
from tests.http.http1.connection_case import FactoryClient
from tests.http.server_fixture import MORNING, ROOT, Client, FakeThreads
from tests.storage.durable.store_case import scratch_directory
from tests.storage.shared.inline_executor import InlineExecutor

_PACKAGE = durable_streams_tw.__name__
_SOURCE = durable_streams_tw.__path__[0]
# Klein refers to each request from a function that refers to itself: a cycle that it leaves to
# the collector. It holds no body.
_HELD_BY_KLEIN = frozenset(("StreamRequest", "RequestSink"))

_LARGE = 5_000
_BODY = b"x" * 20_000
_JSON = b"[" + b",".join([b'{"a":"%d"}' % number for number in range(3_000)]) + b"]"
_LARGE_JSON = b"[" + b",".join([b'"%s"' % _BODY] * 5) + b"]"


def leaked(garbage: list[Any]) -> list[str]:
    """Describe the objects of the collector that belong to the package or hold a large body."""
    found = set()
    for one in garbage:
        kind = type(one)
        if kind.__module__.startswith(_PACKAGE):
            found.add(kind.__qualname__)
        elif isinstance(one, FunctionType | MethodType):
            if (one.__module__ or "").startswith(_PACKAGE):
                found.add(one.__qualname__)
        elif isinstance(one, FrameType):
            if one.f_code.co_filename.startswith(_SOURCE):
                found.add(f"frame of {one.f_code.co_qualname}")
        elif isinstance(one, BytesIO) and one.__sizeof__() > _LARGE:
            found.add("BytesIO")
        for held in gc.get_referents(one):
            if isinstance(held, bytes | bytearray) and len(held) > _LARGE:
                found.add(f"bytes of a {kind.__qualname__}")
    return sorted(found - _HELD_BY_KLEIN)


class CycleFixture:
    """Streams on one store and one HTTP server."""

    def __init__(
        self, fast: bool, asks: bool, store: Callable[[Clock], IStreamStore] | None
    ) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.threads = FakeThreads()
        tokens = FakeTokenChecker()
        tokens.known["root"] = Identity(
            "root", granting(("", "read append create delete subscribe list")), MORNING + 1e6
        )
        tokens.known["brief"] = Identity("brief", granting(("", "read append")), MORNING + 1e9)
        self.tokens = tokens
        self.fast = fast
        self.asks = asks
        settings = Settings(
            max_body=200_000,
            rate=Rate(1_000_000, 1) if asks else None,
            allowed_hosts=("streams.example",) if asks else (),
        )
        self.streams = DurableStreams(
            settings=settings,
            reactor=self.clock,
            in_thread=self.threads,
            checkers=(tokens,) if asks else (),
            store=None if store is None else store(self.clock),
        )
        self.streams.startService()
        self.site: Any = self.streams.http_factory() if fast else self.streams.site()

    def header(self, **fields: str) -> dict[str, str]:
        """Return headers, with a token if the server requires one."""
        token = {"Authorization": "Bearer root"} if self.asks else {}
        return {**token, **{name.replace("_", "-"): value for name, value in fields.items()}}

    def connect(self) -> Client:
        """Open a connection."""
        return FactoryClient(self.site) if self.fast else Client(self.site)

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """Return the bytes of a head, optionally with the headers of a body."""
        given = [f"{method} {ROOT}{path} HTTP/1.1", "Host: streams.example"]
        given += [f"{name}: {value}" for name, value in self.header().items()]
        return "\r\n".join([*given, *lines, "", ""]).encode("ascii")

    def turn(self, seconds: float = 0.0) -> None:
        """Run turns of the reactor and the waiting calls of threads."""
        for _ in range(5):
            self.threads.run()
            self.clock.advance(0)
        if seconds:
            self.clock.pump([1.0] * int(seconds))
            self.turn()

    def ask(
        self, method: str, path: str, body: bytes | None = None, **fields: str
    ) -> list[tuple[int, bytes]]:
        """Send one request on a new connection; return statuses and bodies."""
        client = self.connect()
        client.request(method, ROOT + path, self.header(**fields), body)
        self.turn()
        answers = client.answers(method)
        client.leave()
        return [(answer.status, answer.body) for answer in answers]

    def stop(self) -> None:
        """Stop the streams after all connections have been closed."""
        self.streams.stopService()
        self.turn()


TEXT = {"Content_Type": "text/plain"}
JSON = {"Content_Type": "application/json"}
BINARY = {"Content_Type": "application/octet-stream"}

Scenario = Callable[[CycleFixture], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(done: Scenario) -> Scenario:
    """Register a scenario: actions of a client that end with its disconnect."""
    SCENARIOS[done.__name__] = done
    return done


def _asking(statuses: tuple[int, ...], *given: Any, **fields: str) -> Scenario:
    def ask(fixture: CycleFixture) -> None:
        asked: Any = fixture.ask
        answers = asked(*given, **fields)
        assert [status for status, _ in answers] == list(statuses), (given, answers)

    return ask


SCENARIOS.update(
    {
        "create": _asking((201,), "PUT", "new", _BODY, **TEXT),
        "create json": _asking((201,), "PUT", "newj", _JSON, **JSON),
        "create large json": _asking((201,), "PUT", "newl", _LARGE_JSON, **JSON),
        "create again": _asking((200,), "PUT", "text", b"", **TEXT),
        "create another": _asking((409,), "PUT", "text", b"", **JSON),
        "fork": _asking((201,), "PUT", "fork", b"", Stream_Forked_From="/v1/stream/text"),
        "fork of a json": _asking(
            (201,),
            "PUT",
            "forkj",
            b"",
            Stream_Forked_From="/v1/stream/json",
            Stream_Fork_Offset="0000000000000000_0000000000000000",
            Stream_Fork_Sub_Offset="2",
        ),
        "fork of nothing": _asking((404,), "PUT", "f2", b"", Stream_Forked_From="/v1/stream/no"),
        "append": _asking((204,), "POST", "text", _BODY, **TEXT),
        "append json": _asking((204,), "POST", "json", _JSON, **JSON),
        "append large json": _asking((204,), "POST", "json", _LARGE_JSON, **JSON),
        "append broken json": _asking((400,), "POST", "json", _JSON[:-1], **JSON),
        "append broken large json": _asking((400,), "POST", "json", _LARGE_JSON[:-1], **JSON),
        "append another type": _asking((409,), "POST", "text", _JSON, **JSON),
        "append nothing": _asking((400,), "POST", "text", b"", **TEXT),
        "append to nothing": _asking((404,), "POST", "none", _BODY, **TEXT),
        "append too much": _asking((413,), "POST", "text", b"x" * 200_001, **TEXT),
        "producer": _asking(
            (200,),
            "POST",
            "text",
            _BODY,
            Producer_Id="p",
            Producer_Epoch="0",
            Producer_Seq="0",
            **TEXT,
        ),
        "producer gap": _asking(
            (409,),
            "POST",
            "text",
            _BODY,
            Producer_Id="q",
            Producer_Epoch="0",
            Producer_Seq="5",
            **TEXT,
        ),
        "producer bad": _asking((400,), "POST", "text", _BODY, Producer_Id="q", **TEXT),
        "close": _asking((204,), "POST", "closing", b"", Stream_Closed="true", **TEXT),
        "ttl": _asking((201,), "PUT", "ttl", b"", Stream_TTL="10", **TEXT),
        "read": _asking((200,), "GET", "text"),
        "read zipped": _asking((200,), "GET", "text", Accept_Encoding="gzip"),
        "read json": _asking((200,), "GET", "json?offset=-1"),
        "read now": _asking((200,), "GET", "text?offset=now"),
        "read badly": _asking((400,), "GET", "text?offset=nonsense"),
        "read nothing": _asking((404,), "GET", "none"),
        "read ahead": _asking((400,), "GET", "text?live=nonsense"),
        "head": _asking((200,), "HEAD", "text"),
        "head of nothing": _asking((404,), "HEAD", "none"),
        "options": _asking((204,), "OPTIONS", "text", Origin="https://a.example"),
        "delete": _asking((204,), "DELETE", "deleted"),
        "delete nothing": _asking((404,), "DELETE", "none"),
        "method": _asking((405,), "PATCH", "text", _BODY),
        "a name that is reserved": _asking((404,), "GET", "__ds/x"),
        "subscribe": _asking(
            (201,),
            "PUT",
            "__ds/subscriptions/s",
            b'{"type":"pull-wake","pattern":"**","wake_stream":"wakes"}',
            **JSON,
        ),
        "describe a subscription": _asking((404,), "GET", "__ds/subscriptions/none"),
        "subscribe badly": _asking((400,), "PUT", "__ds/subscriptions/b", b'{"type":1}', **JSON),
        "keys": _asking((200,), "GET", "__ds/jwks.json"),
    }
)


@scenario
def pipelined(fixture: CycleFixture) -> None:
    """Pipelined requests, with immediate and later responses."""
    client = fixture.connect()
    one = fixture.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20000") + _BODY
    two = fixture.head("POST", "json", "Content-Type: application/json", "Content-Length: 7")
    client.send((one + two + b'["ab"] ' + fixture.head("GET", "text")) * 4)
    fixture.turn()
    assert len(client.answers()) == 12, client.answers()
    client.leave()


@scenario
def pipelined_disconnect(fixture: CycleFixture) -> None:
    """The client disconnects while requests are queued."""
    client = fixture.connect()
    wait = fixture.head("GET", "text?offset=now&live=long-poll")
    one = fixture.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20000") + _BODY
    client.send(wait + one * 3)
    fixture.turn()
    client.leave()


@scenario
def chunked(fixture: CycleFixture) -> None:
    """A chunked body."""
    client = fixture.connect()
    client.send(
        fixture.head("POST", "text", "Content-Type: text/plain", "Transfer-Encoding: chunked")
    )
    client.send(b"4e20\r\n" + _BODY[:100])
    client.send(_BODY[100:] + b"\r\n0\r\n\r\n")
    fixture.turn()
    assert [answer.status for answer in client.answers()] == [204], client.answers()
    client.leave()


@scenario
def in_pieces(fixture: CycleFixture) -> None:
    """A head and a body in pieces."""
    client = fixture.connect()
    data = fixture.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20000") + _BODY
    for start in range(0, len(data), 50):
        client.send(data[start : start + 50])
    fixture.turn()
    assert [answer.status for answer in client.answers()] == [204], client.answers()
    client.leave()


@scenario
def disconnect_before_a_head(fixture: CycleFixture) -> None:
    """The client disconnects without a byte."""
    fixture.connect().leave()


@scenario
def disconnect_in_a_head(fixture: CycleFixture) -> None:
    """The client disconnects within a head."""
    client = fixture.connect()
    client.send(
        fixture.head("POST", "text", "Content-Length: 20000")[:-4] + b"\r\nX: " + b"x" * 9_000
    )
    client.leave()


@scenario
def disconnect_in_a_body(fixture: CycleFixture) -> None:
    """The client disconnects within a body."""
    client = fixture.connect()
    client.send(fixture.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001"))
    client.send(_BODY[:10_000])
    client.send(_BODY[10_000:])
    client.leave()


@scenario
def disconnect_in_a_chunk(fixture: CycleFixture) -> None:
    """The client disconnects within a chunk."""
    client = fixture.connect()
    client.send(
        fixture.head("POST", "text", "Content-Type: text/plain", "Transfer-Encoding: chunked")
    )
    client.send(b"4e21\r\n")
    client.send(_BODY)
    client.leave()


@scenario
def half_closed_in_a_body(fixture: CycleFixture) -> None:
    """The client half-closes within a body."""
    client = fixture.connect()
    client.send(fixture.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001"))
    client.send(_BODY)
    if fixture.fast:
        client.protocol.readConnectionLost()
    client.leave()


@scenario
def disconnect_during_validation(fixture: CycleFixture) -> None:
    """The client disconnects while a thread validates the body."""
    client = fixture.connect()
    client.request("POST", ROOT + "json", fixture.header(**JSON), _LARGE_JSON)
    client.leave()
    fixture.turn()


@scenario
def disconnect_during_compression(fixture: CycleFixture) -> None:
    """The client disconnects while a thread compresses the response."""
    client = fixture.connect()
    client.request("GET", ROOT + "text", fixture.header(Accept_Encoding="gzip"))
    client.leave()
    fixture.turn()


@scenario
def disconnect_during_authorization(fixture: CycleFixture) -> None:
    """The client disconnects while a checker verifies the token."""
    if not fixture.asks:
        return
    from twisted.internet.defer import Deferred

    fixture.tokens.later["slow"] = Deferred()
    client = fixture.connect()
    header = {**fixture.header(**TEXT), "Authorization": "Bearer slow"}
    client.request("POST", ROOT + "text", header, _BODY)
    client.leave()
    del fixture.tokens.later["slow"]
    fixture.turn()


@scenario
def without_a_token(fixture: CycleFixture) -> None:
    """Requests with a body: without a token, and without the grant."""
    for token in (None, "nobody", "brief"):
        client = fixture.connect()
        header = {} if token is None else {"Authorization": f"Bearer {token}"}
        client.request("PUT", ROOT + "text", {**header, "Content-Type": "text/plain"}, _BODY)
        fixture.turn()
        client.leave()


@scenario
def another_host(fixture: CycleFixture) -> None:
    """A Host that is not allowed."""
    client = fixture.connect()
    client.send(
        b"POST /v1/stream/text HTTP/1.1\r\nHost: evil\r\nContent-Length: 20000\r\n\r\n" + _BODY
    )
    fixture.turn()
    client.leave()


@scenario
def long_poll(fixture: CycleFixture) -> None:
    """A long-poll that returns data."""
    client = fixture.connect()
    client.request("GET", ROOT + "text?offset=now&live=long-poll", fixture.header())
    fixture.turn()
    fixture.ask("POST", "text", _BODY, **TEXT)
    assert [answer.status for answer in client.answers()] == [200], client.answers()
    client.leave()


@scenario
def long_poll_timed_out(fixture: CycleFixture) -> None:
    """A long-poll that times out."""
    client = fixture.connect()
    client.request("GET", ROOT + "text?offset=now&live=long-poll", fixture.header())
    fixture.turn(31)
    assert [answer.status for answer in client.answers()] == [204], client.answers()
    client.leave()


@scenario
def long_poll_disconnect(fixture: CycleFixture) -> None:
    """The client disconnects during a long-poll."""
    client = fixture.connect()
    client.request("GET", ROOT + "text?offset=now&live=long-poll", fixture.header())
    fixture.turn()
    client.leave()


@scenario
def long_poll_deleted(fixture: CycleFixture) -> None:
    """The stream is deleted during a long-poll."""
    fixture.ask("PUT", "brief", b"", **TEXT)
    client = fixture.connect()
    client.request("GET", ROOT + "brief?offset=now&live=long-poll", fixture.header())
    fixture.turn()
    fixture.ask("DELETE", "brief")
    fixture.turn()
    client.leave()


def _follow(fixture: CycleFixture, path: str) -> Client:
    client = fixture.connect()
    client.request("GET", ROOT + path, fixture.header())
    fixture.turn()
    return client


@scenario
def events(fixture: CycleFixture) -> None:
    """An SSE response: catch-up, new messages, a comment, a disconnect."""
    for path in ("text", "json", "binary"):
        client = _follow(fixture, path + "?offset=-1&live=sse")
        fixture.turn(20)
        for _ in range(3):
            fixture.ask("POST", "text", _BODY, **TEXT)
            fixture.ask("POST", "json", _JSON, **JSON)
            fixture.ask("POST", "binary", _BODY, **BINARY)
        assert len(client.transport.value()) > 20_000
        client.leave()


@scenario
def events_disconnect(fixture: CycleFixture) -> None:
    """The client disconnects before the first event."""
    client = fixture.connect()
    client.request("GET", ROOT + "text?offset=-1&live=sse", fixture.header())
    client.leave()
    fixture.turn()


@scenario
def events_reconnect(fixture: CycleFixture) -> None:
    """An SSE response that ends with the reconnect interval."""
    client = _follow(fixture, "text?offset=now&live=sse")
    fixture.turn(65)
    assert client.answers()[0].complete
    client.leave()


@scenario
def events_end(fixture: CycleFixture) -> None:
    """The stream is closed, or deleted, under its readers."""
    for ending in (
        partial(fixture.ask, "POST", Stream_Closed="true"),
        partial(fixture.ask, "DELETE"),
    ):
        fixture.ask("PUT", "brief2", _BODY, **TEXT)
        clients = [_follow(fixture, "brief2?offset=-1&live=sse") for _ in range(3)]
        ending("brief2")
        fixture.turn()
        for client in clients:
            client.leave()
        fixture.ask("DELETE", "brief2")


@scenario
def slow_reader(fixture: CycleFixture) -> None:
    """A full transport of an SSE response, until it is cut or the client disconnects."""
    for cut in (False, True):
        client = _follow(fixture, "text?offset=now&live=sse")
        producer: Any = client.transport.producer
        producer.pauseProducing()
        fixture.ask("POST", "text", _BODY, **TEXT)
        fixture.turn()
        if cut:
            producer.resumeProducing()
            fixture.turn()
            producer.pauseProducing()
            fixture.turn(70)
        client.leave()


@scenario
def slow_reader_of_bytes(fixture: CycleFixture) -> None:
    """A full transport while responses are pending."""
    client = fixture.connect()
    producer: Any = client.transport.producer
    client.request("GET", ROOT + "text", fixture.header())
    producer.pauseProducing()
    client.request("GET", ROOT + "text", fixture.header())
    fixture.turn(70)
    client.leave()


@scenario
def slow_writers(fixture: CycleFixture) -> None:
    """Heads and bodies that time out."""
    head = fixture.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001")
    for data in (head[:-4], head + _BODY[:10_000]):
        client = fixture.connect()
        client.send(data)
        fixture.turn(130)
        client.leave()


@scenario
def idle(fixture: CycleFixture) -> None:
    """An idle connection is closed."""
    client = fixture.connect()
    client.request("POST", ROOT + "text", fixture.header(**TEXT), _BODY)
    fixture.turn(200)
    client.leave()


@scenario
def malformed(fixture: CycleFixture) -> None:
    """Bytes that are not HTTP, and requests with invalid parameters."""
    for data in (
        b"nonsense\r\n\r\n" + _BODY,
        b"GET / HTTP/3.0\r\n\r\n",
        b"GET /" + b"x" * 20_000,
        fixture.head("POST", "text", "Content-Length: 5", "Transfer-Encoding: chunked") + _BODY,
        fixture.head("POST", "text", "Transfer-Encoding: chunked") + b"zz\r\n" + _BODY,
        fixture.head("POST", "text", "Transfer-Encoding: gzip") + _BODY,
        fixture.head("POST", "text", "Expect: wonders", "Content-Length: 9") + _BODY,
        fixture.head("POST", "text", "Content-Length: 99999999999") + _BODY,
        fixture.head("POST", "text", "Content-Type: a", "Content-Type: b", "Content-Length: 20000")
        + _BODY,
        fixture.head("GET", "text", "Host: two"),
    ):
        client = fixture.connect()
        client.send(data)
        fixture.turn(10)
        client.leave()


@scenario
def expect_continue(fixture: CycleFixture) -> None:
    """A client awaits 100 Continue, and another one disconnects after it."""
    lines = ("Content-Type: text/plain", "Content-Length: 20000", "Expect: 100-continue")
    for sent in (_BODY, b"", _BODY[:9_000]):
        client = fixture.connect()
        client.send(fixture.head("POST", "text", *lines))
        assert b" 100 Continue\r\n" in client.transport.value()
        client.send(sent)
        fixture.turn()
        client.leave()


@scenario
def handed_over(fixture: CycleFixture) -> None:
    """Requests for other paths, with a body and without."""
    client = fixture.connect()
    client.send(fixture.head("GET", "text"))
    client.send(b"GET /other HTTP/1.1\r\nHost: streams.example\r\n\r\n")
    client.send(b"POST /other HTTP/1.1\r\nHost: streams.example\r\nContent-Length: 20001\r\n\r\n")
    client.send(_BODY)
    fixture.turn()
    client.leave()


@scenario
def http_1_0(fixture: CycleFixture) -> None:
    """HTTP/1.0, also with live reads."""
    for path in ("text", "text?offset=-1&live=sse", "text?offset=now&live=long-poll"):
        client = fixture.connect()
        client.request("GET", ROOT + path, fixture.header(), version="HTTP/1.0")
        fixture.turn()
        client.leave()


def _long_read(fixture: CycleFixture, **fields: str) -> Client:
    """Start a read that is longer than one piece."""
    client = fixture.connect()
    client.request("GET", ROOT + "long", fixture.header(**fields))
    return client


@scenario
def long_response(fixture: CycleFixture) -> None:
    """A response in pieces, plain and compressed, also over HTTP/1.0."""
    for fields in ({}, {"Accept_Encoding": "gzip"}):
        client = _long_read(fixture, **fields)
        for _ in range(5):
            fixture.turn()
        (answer,) = client.answers()
        assert answer.complete, answer.header
        client.leave()
    client = fixture.connect()
    client.request("GET", ROOT + "long", fixture.header(), version="HTTP/1.0")
    fixture.turn()
    client.leave()


@scenario
def long_response_disconnect(fixture: CycleFixture) -> None:
    """The client disconnects in the middle, also while a thread compresses."""
    for fields in ({}, {"Accept_Encoding": "gzip"}):
        for turns in range(3):
            client = _long_read(fixture, **fields)
            producer: Any = client.transport.producer
            if turns < 2:
                producer.pauseProducing()
            if turns:
                fixture.turn()
            client.leave()
            fixture.turn()


@scenario
def long_response_unread(fixture: CycleFixture) -> None:
    """The client reads nothing until the connection is closed."""
    client = _long_read(fixture)
    producer: Any = client.transport.producer
    producer.pauseProducing()
    fixture.turn(100)
    assert client.transport.disconnecting
    client.leave()


@scenario
def long_response_cut(fixture: CycleFixture) -> None:
    """The stream is deleted in the middle, and the connection is cut."""
    client = _long_read(fixture)
    producer: Any = client.transport.producer
    producer.pauseProducing()
    fixture.ask("DELETE", "long")
    producer.resumeProducing()
    fixture.turn()
    assert client.transport.disconnecting
    client.leave()


@scenario
def body_budget_exceeded(fixture: CycleFixture) -> None:
    """Incomplete bodies exceed the budget."""
    held = fixture.site.bodies.limit
    fixture.site.bodies.limit = 15_000
    client = fixture.connect()
    client.send(fixture.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001"))
    client.send(_BODY)
    fixture.turn(10)
    assert b" 503 " in client.transport.value()
    fixture.site.bodies.limit = held
    client.leave()


class CycleCase:
    """Base of test cases: all scenarios on one server and one store, with or without
    authorization.
    """

    fast: ClassVar[bool]
    asks: ClassVar[bool]
    durable: ClassVar[bool]

    def setUp(self) -> None:
        """Create streams, and freeze all existing objects."""
        case: Any = self
        directory: str | None = None
        if self.durable:
            directory = scratch_directory(case)

        def store(clock: Clock) -> IStreamStore:
            assert directory is not None
            made: IStreamStore = DurableStore(
                directory, clock, InlineExecutor(), now=lambda: int(clock.seconds() * 1000)
            )
            return made

        self.fixture = fixture = CycleFixture(self.fast, self.asks, store if self.durable else None)
        for path, fields in (("text", TEXT), ("json", JSON), ("binary", BINARY)):
            fixture.ask("PUT", path, b"[1,2,3]" if fields is JSON else _BODY, **fields)
        fixture.ask("PUT", "wakes", b"", **JSON)
        for path in ("closing", "deleted", "long"):
            fixture.ask("PUT", path, b"", **TEXT)
        for _ in range(4):
            fixture.ask("POST", "long", b"x" * 190_000, **TEXT)
        gc.collect()
        gc.freeze()
        gc.disable()

    def tearDown(self) -> None:
        """Enable the garbage collector."""
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.unfreeze()
        self.fixture.stop()

    def leaks(self, done: Callable[[], object]) -> list[str]:
        """Return the leaked objects of a call."""
        gc.collect()
        done()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        found = leaked(gc.garbage)
        gc.garbage.clear()
        return found

    def test_no_cycles(self) -> None:
        """No scenario leaves a cycle."""
        case: Any = self
        found: dict[str, list[str]] = {}
        for name, done in SCENARIOS.items():
            left = self.leaks(partial(done, self.fixture))
            if left:
                found[name] = left
            logged = case.flushLoggedErrors()
            case.assertEqual(logged, [], name)
        described = "\n".join(f"{name}: {left}" for name, left in found.items())
        if found:
            case.fail(f"left to the collector:\n{described}")

    def test_stopped(self) -> None:
        """Stopping with readers, uploads and pending requests leaves no cycle."""
        case: Any = self
        fixture = self.fixture
        clients = [
            _follow(fixture, "text?offset=-1&live=sse"),
            _follow(fixture, "text?offset=now&live=long-poll"),
            fixture.connect(),
            fixture.connect(),
        ]
        upload = fixture.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001")
        clients[-1].send(upload)
        clients[-1].send(_BODY)

        def stop() -> None:
            fixture.streams.release()
            fixture.site.drain()
            fixture.turn(6)
            while clients:
                clients.pop().leave()
            fixture.turn(6)

        case.assertEqual(self.leaks(stop), [])


def _cases() -> None:
    for fast in (True, False):
        for durable in (True, False):
            for asks in (True, False):
                name = "".join(
                    (
                        "Channel" if fast else "Web",
                        "Durable" if durable else "Memory",
                        "Admission" if asks else "Open",
                        "Tests",
                    )
                )
                members = {"fast": fast, "durable": durable, "asks": asks, "__module__": __name__}
                globals()[name] = type(name, (CycleCase, SynchronousTestCase), members)


_cases()
