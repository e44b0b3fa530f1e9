"""No object of a request, a connection or a batch is part of a reference cycle.

The collector of a server is set to come by seldom (`service.interpreter`), and never while the
server idles, so what is in a cycle keeps its bytes. Here the collector is off while one client does
one thing and leaves; then it is asked what it would have had to free. That is nothing of ours, and
no large body, whichever server, store and conditions there are.
"""

from __future__ import annotations

import gc
import shutil
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
from tests.http.authorization_case import Tokens, granting
from tests.http.http1.connection_case import Caller
from tests.http.server_fixture import MORNING, ROOT, Client, Threads
from tests.storage.durable.inline_executor import InlineExecutor
from tests.storage.durable.store_case import scratch_directory

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
    """Describe those objects of the collector's that are ours, or hold a large body."""
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


class Stage:
    """Streams on a store of one kind, on one server, that have nothing to do."""

    def __init__(
        self, fast: bool, asks: bool, store: Callable[[Clock], IStreamStore] | None
    ) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.threads = Threads()
        tokens = Tokens()
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
        """Fields of a request, with a token where there have to be any."""
        token = {"Authorization": "Bearer root"} if self.asks else {}
        return {**token, **{name.replace("_", "-"): value for name, value in fields.items()}}

    def connect(self) -> Client:
        """A new connection."""
        return Caller(self.site) if self.fast else Client(self.site)

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """The bytes of a head, in which a body may be announced."""
        given = [f"{method} {ROOT}{path} HTTP/1.1", "Host: streams.example"]
        given += [f"{name}: {value}" for name, value in self.header().items()]
        return "\r\n".join([*given, *lines, "", ""]).encode("ascii")

    def turn(self, seconds: float = 0.0) -> None:
        """Let the reactor go round, and threads do what they were given."""
        for _ in range(5):
            self.threads.run()
            self.clock.advance(0)
        if seconds:
            self.clock.pump([1.0] * int(seconds))
            self.turn()

    def ask(
        self, method: str, path: str, body: bytes | None = None, **fields: str
    ) -> list[tuple[int, bytes]]:
        """One request on a connection of its own, to its end; statuses and bodies."""
        client = self.connect()
        client.request(method, ROOT + path, self.header(**fields), body)
        self.turn()
        answers = client.answers(method)
        client.leave()
        return [(answer.status, answer.body) for answer in answers]

    def stop(self) -> None:
        """Stop the streams, with all connections gone."""
        self.streams.stopService()
        self.turn()


TEXT = {"Content_Type": "text/plain"}
JSON = {"Content_Type": "application/json"}
BINARY = {"Content_Type": "application/octet-stream"}

Scenario = Callable[[Stage], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(done: Scenario) -> Scenario:
    """Something that a client does, and that ends with its leaving."""
    SCENARIOS[done.__name__] = done
    return done


def _asking(statuses: tuple[int, ...], *given: Any, **fields: str) -> Scenario:
    def ask(stage: Stage) -> None:
        asked: Any = stage.ask
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
def pipelined(stage: Stage) -> None:
    """Many requests at once, answered at once and later."""
    client = stage.connect()
    one = stage.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20000") + _BODY
    two = stage.head("POST", "json", "Content-Type: application/json", "Content-Length: 7")
    client.send((one + two + b'["ab"] ' + stage.head("GET", "text")) * 4)
    stage.turn()
    assert len(client.answers()) == 12, client.answers()
    client.leave()


@scenario
def pipelined_and_gone(stage: Stage) -> None:
    """The client leaves while requests wait for their turn."""
    client = stage.connect()
    wait = stage.head("GET", "text?offset=now&live=long-poll")
    one = stage.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20000") + _BODY
    client.send(wait + one * 3)
    stage.turn()
    client.leave()


@scenario
def chunked(stage: Stage) -> None:
    """A body in chunks."""
    client = stage.connect()
    client.send(
        stage.head("POST", "text", "Content-Type: text/plain", "Transfer-Encoding: chunked")
    )
    client.send(b"4e20\r\n" + _BODY[:100])
    client.send(_BODY[100:] + b"\r\n0\r\n\r\n")
    stage.turn()
    assert [answer.status for answer in client.answers()] == [204], client.answers()
    client.leave()


@scenario
def in_pieces(stage: Stage) -> None:
    """A head and a body that come in pieces."""
    client = stage.connect()
    data = stage.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20000") + _BODY
    for start in range(0, len(data), 50):
        client.send(data[start : start + 50])
    stage.turn()
    assert [answer.status for answer in client.answers()] == [204], client.answers()
    client.leave()


@scenario
def gone_before_a_head(stage: Stage) -> None:
    """A client that says nothing."""
    stage.connect().leave()


@scenario
def gone_in_a_head(stage: Stage) -> None:
    """Gone within a head."""
    client = stage.connect()
    client.send(
        stage.head("POST", "text", "Content-Length: 20000")[:-4] + b"\r\nX: " + b"x" * 9_000
    )
    client.leave()


@scenario
def gone_in_a_body(stage: Stage) -> None:
    """Gone within a body."""
    client = stage.connect()
    client.send(stage.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001"))
    client.send(_BODY[:10_000])
    client.send(_BODY[10_000:])
    client.leave()


@scenario
def gone_in_a_chunk(stage: Stage) -> None:
    """Gone within a chunk."""
    client = stage.connect()
    client.send(
        stage.head("POST", "text", "Content-Type: text/plain", "Transfer-Encoding: chunked")
    )
    client.send(b"4e21\r\n")
    client.send(_BODY)
    client.leave()


@scenario
def half_closed_in_a_body(stage: Stage) -> None:
    """The client ends its side within a body."""
    client = stage.connect()
    client.send(stage.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001"))
    client.send(_BODY)
    if stage.fast:
        client.protocol.readConnectionLost()
    client.leave()


@scenario
def gone_while_parsed(stage: Stage) -> None:
    """Gone while a thread validates the body."""
    client = stage.connect()
    client.request("POST", ROOT + "json", stage.header(**JSON), _LARGE_JSON)
    client.leave()
    stage.turn()


@scenario
def gone_while_zipped(stage: Stage) -> None:
    """Gone while a thread compresses the answer."""
    client = stage.connect()
    client.request("GET", ROOT + "text", stage.header(Accept_Encoding="gzip"))
    client.leave()
    stage.turn()


@scenario
def gone_while_checked(stage: Stage) -> None:
    """Gone while a checker looks for the token."""
    if not stage.asks:
        return
    from twisted.internet.defer import Deferred

    stage.tokens.later["slow"] = Deferred()
    client = stage.connect()
    header = {**stage.header(**TEXT), "Authorization": "Bearer slow"}
    client.request("POST", ROOT + "text", header, _BODY)
    client.leave()
    del stage.tokens.later["slow"]
    stage.turn()


@scenario
def without_a_token(stage: Stage) -> None:
    """A client that nobody knows, with a body; one that may not."""
    for token in (None, "nobody", "brief"):
        client = stage.connect()
        header = {} if token is None else {"Authorization": f"Bearer {token}"}
        client.request("PUT", ROOT + "text", {**header, "Content-Type": "text/plain"}, _BODY)
        stage.turn()
        client.leave()


@scenario
def another_host(stage: Stage) -> None:
    """A host that the server is not called by."""
    client = stage.connect()
    client.send(
        b"POST /v1/stream/text HTTP/1.1\r\nHost: evil\r\nContent-Length: 20000\r\n\r\n" + _BODY
    )
    stage.turn()
    client.leave()


@scenario
def long_poll(stage: Stage) -> None:
    """A long-poll that finds something."""
    client = stage.connect()
    client.request("GET", ROOT + "text?offset=now&live=long-poll", stage.header())
    stage.turn()
    stage.ask("POST", "text", _BODY, **TEXT)
    assert [answer.status for answer in client.answers()] == [200], client.answers()
    client.leave()


@scenario
def long_poll_timed_out(stage: Stage) -> None:
    """A long-poll that finds nothing."""
    client = stage.connect()
    client.request("GET", ROOT + "text?offset=now&live=long-poll", stage.header())
    stage.turn(31)
    assert [answer.status for answer in client.answers()] == [204], client.answers()
    client.leave()


@scenario
def long_poll_gone(stage: Stage) -> None:
    """Gone while it waits."""
    client = stage.connect()
    client.request("GET", ROOT + "text?offset=now&live=long-poll", stage.header())
    stage.turn()
    client.leave()


@scenario
def long_poll_deleted(stage: Stage) -> None:
    """The stream is deleted while one waits."""
    stage.ask("PUT", "brief", b"", **TEXT)
    client = stage.connect()
    client.request("GET", ROOT + "brief?offset=now&live=long-poll", stage.header())
    stage.turn()
    stage.ask("DELETE", "brief")
    stage.turn()
    client.leave()


def _follow(stage: Stage, path: str) -> Client:
    client = stage.connect()
    client.request("GET", ROOT + path, stage.header())
    stage.turn()
    return client


@scenario
def events(stage: Stage) -> None:
    """An event stream: catching up, new messages, a comment, gone."""
    for path in ("text", "json", "binary"):
        client = _follow(stage, path + "?offset=-1&live=sse")
        stage.turn(20)
        for _ in range(3):
            stage.ask("POST", "text", _BODY, **TEXT)
            stage.ask("POST", "json", _JSON, **JSON)
            stage.ask("POST", "binary", _BODY, **BINARY)
        assert len(client.transport.value()) > 20_000
        client.leave()


@scenario
def events_at_once(stage: Stage) -> None:
    """Gone before the first event."""
    client = stage.connect()
    client.request("GET", ROOT + "text?offset=-1&live=sse", stage.header())
    client.leave()
    stage.turn()


@scenario
def events_ended(stage: Stage) -> None:
    """An event stream that is asked to reconnect."""
    client = _follow(stage, "text?offset=now&live=sse")
    stage.turn(65)
    assert client.answers()[0].complete
    client.leave()


@scenario
def events_of_a_stream_that_ends(stage: Stage) -> None:
    """The stream is closed, or deleted, under its readers."""
    for ending in (partial(stage.ask, "POST", Stream_Closed="true"), partial(stage.ask, "DELETE")):
        stage.ask("PUT", "brief2", _BODY, **TEXT)
        clients = [_follow(stage, "brief2?offset=-1&live=sse") for _ in range(3)]
        ending("brief2")
        stage.turn()
        for client in clients:
            client.leave()
        stage.ask("DELETE", "brief2")


@scenario
def slow_reader(stage: Stage) -> None:
    """An event stream whose transport is full, until it is cut or goes."""
    for cut in (False, True):
        client = _follow(stage, "text?offset=now&live=sse")
        producer: Any = client.transport.producer
        producer.pauseProducing()
        stage.ask("POST", "text", _BODY, **TEXT)
        stage.turn()
        if cut:
            producer.resumeProducing()
            stage.turn()
            producer.pauseProducing()
            stage.turn(70)
        client.leave()


@scenario
def slow_reader_of_bytes(stage: Stage) -> None:
    """A transport that is full while requests are answered."""
    client = stage.connect()
    producer: Any = client.transport.producer
    client.request("GET", ROOT + "text", stage.header())
    producer.pauseProducing()
    client.request("GET", ROOT + "text", stage.header())
    stage.turn(70)
    client.leave()


@scenario
def slow_writers(stage: Stage) -> None:
    """Heads and bodies that do not come in time."""
    head = stage.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001")
    for data in (head[:-4], head + _BODY[:10_000]):
        client = stage.connect()
        client.send(data)
        stage.turn(130)
        client.leave()


@scenario
def idle(stage: Stage) -> None:
    """A connection that is closed for it says nothing more."""
    client = stage.connect()
    client.request("POST", ROOT + "text", stage.header(**TEXT), _BODY)
    stage.turn(200)
    client.leave()


@scenario
def nonsense(stage: Stage) -> None:
    """What is not HTTP; what is not asked like this."""
    for data in (
        b"nonsense\r\n\r\n" + _BODY,
        b"GET / HTTP/3.0\r\n\r\n",
        b"GET /" + b"x" * 20_000,
        stage.head("POST", "text", "Content-Length: 5", "Transfer-Encoding: chunked") + _BODY,
        stage.head("POST", "text", "Transfer-Encoding: chunked") + b"zz\r\n" + _BODY,
        stage.head("POST", "text", "Transfer-Encoding: gzip") + _BODY,
        stage.head("POST", "text", "Expect: wonders", "Content-Length: 9") + _BODY,
        stage.head("POST", "text", "Content-Length: 99999999999") + _BODY,
        stage.head("POST", "text", "Content-Type: a", "Content-Type: b", "Content-Length: 20000")
        + _BODY,
        stage.head("GET", "text", "Host: two"),
    ):
        client = stage.connect()
        client.send(data)
        stage.turn(10)
        client.leave()


@scenario
def continued(stage: Stage) -> None:
    """A client that waits for a word before it sends its body, and one that then goes."""
    lines = ("Content-Type: text/plain", "Content-Length: 20000", "Expect: 100-continue")
    for sent in (_BODY, b"", _BODY[:9_000]):
        client = stage.connect()
        client.send(stage.head("POST", "text", *lines))
        assert b" 100 Continue\r\n" in client.transport.value()
        client.send(sent)
        stage.turn()
        client.leave()


@scenario
def handed_over(stage: Stage) -> None:
    """A path outside the root, with a body and without."""
    client = stage.connect()
    client.send(stage.head("GET", "text"))
    client.send(b"GET /other HTTP/1.1\r\nHost: streams.example\r\n\r\n")
    client.send(b"POST /other HTTP/1.1\r\nHost: streams.example\r\nContent-Length: 20001\r\n\r\n")
    client.send(_BODY)
    stage.turn()
    client.leave()


@scenario
def old_http(stage: Stage) -> None:
    """HTTP/1.0, live too."""
    for path in ("text", "text?offset=-1&live=sse", "text?offset=now&live=long-poll"):
        client = stage.connect()
        client.request("GET", ROOT + path, stage.header(), version="HTTP/1.0")
        stage.turn()
        client.leave()


def _long_read(stage: Stage, **fields: str) -> Client:
    """Begin a read that is longer than one piece."""
    client = stage.connect()
    client.request("GET", ROOT + "long", stage.header(**fields))
    return client


@scenario
def long_answer(stage: Stage) -> None:
    """An answer in pieces, plain and zipped, over HTTP/1.0 too."""
    for fields in ({}, {"Accept_Encoding": "gzip"}):
        client = _long_read(stage, **fields)
        for _ in range(5):
            stage.turn()
        (answer,) = client.answers()
        assert answer.complete, answer.header
        client.leave()
    client = stage.connect()
    client.request("GET", ROOT + "long", stage.header(), version="HTTP/1.0")
    stage.turn()
    client.leave()


@scenario
def long_answer_gone(stage: Stage) -> None:
    """Gone in the middle, also while a thread zips."""
    for fields in ({}, {"Accept_Encoding": "gzip"}):
        for turns in range(3):
            client = _long_read(stage, **fields)
            producer: Any = client.transport.producer
            if turns < 2:
                producer.pauseProducing()
            if turns:
                stage.turn()
            client.leave()
            stage.turn()


@scenario
def long_answer_unread(stage: Stage) -> None:
    """Given up, for the client reads nothing."""
    client = _long_read(stage)
    producer: Any = client.transport.producer
    producer.pauseProducing()
    stage.turn(100)
    assert client.transport.disconnecting
    client.leave()


@scenario
def long_answer_cut(stage: Stage) -> None:
    """Cut, for the stream is deleted in the middle."""
    client = _long_read(stage)
    producer: Any = client.transport.producer
    producer.pauseProducing()
    stage.ask("DELETE", "long")
    producer.resumeProducing()
    stage.turn()
    assert client.transport.disconnecting
    client.leave()


@scenario
def too_many(stage: Stage) -> None:
    """More bytes of bodies on their way than may be."""
    held = stage.site.bodies.limit
    stage.site.bodies.limit = 15_000
    client = stage.connect()
    client.send(stage.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001"))
    client.send(_BODY)
    stage.turn(10)
    assert b" 503 " in client.transport.value()
    stage.site.bodies.limit = held
    client.leave()


class CycleCase:
    """Each scenario, on one server, on one store, with or without conditions."""

    fast: ClassVar[bool]
    asks: ClassVar[bool]
    durable: ClassVar[bool]

    def setUp(self) -> None:
        """Prepare streams, and forget everything that there is at this moment."""
        case: Any = self
        directory: str | None = None
        if self.durable:
            directory = scratch_directory()
            case.addCleanup(shutil.rmtree, directory)

        def store(clock: Clock) -> IStreamStore:
            assert directory is not None
            made: IStreamStore = DurableStore(
                directory, clock, InlineExecutor(), now=lambda: int(clock.seconds() * 1000)
            )
            return made

        self.stage = stage = Stage(self.fast, self.asks, store if self.durable else None)
        for path, fields in (("text", TEXT), ("json", JSON), ("binary", BINARY)):
            stage.ask("PUT", path, b"[1,2,3]" if fields is JSON else _BODY, **fields)
        stage.ask("PUT", "wakes", b"", **JSON)
        for path in ("closing", "deleted", "long"):
            stage.ask("PUT", path, b"", **TEXT)
        for _ in range(4):
            stage.ask("POST", "long", b"x" * 190_000, **TEXT)
        gc.collect()
        gc.freeze()
        gc.disable()

    def tearDown(self) -> None:
        """Let the collector do its work again."""
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.unfreeze()
        self.stage.stop()

    def leaks(self, done: Callable[[], object]) -> list[str]:
        """What is ours of what the collector finds after something was done."""
        gc.collect()
        done()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        found = leaked(gc.garbage)
        gc.garbage.clear()
        return found

    def test_nothing_is_left(self) -> None:
        """Every scenario, one after the other."""
        case: Any = self
        found: dict[str, list[str]] = {}
        for name, done in SCENARIOS.items():
            left = self.leaks(partial(done, self.stage))
            if left:
                found[name] = left
            logged = case.flushLoggedErrors()
            case.assertEqual(logged, [], name)
        described = "\n".join(f"{name}: {left}" for name, left in found.items())
        if found:
            case.fail(f"left to the collector:\n{described}")

    def test_stopped(self) -> None:
        """A server that stops with readers, uploads and requests under way."""
        case: Any = self
        stage = self.stage
        clients = [
            _follow(stage, "text?offset=-1&live=sse"),
            _follow(stage, "text?offset=now&live=long-poll"),
            stage.connect(),
            stage.connect(),
        ]
        upload = stage.head("POST", "text", "Content-Type: text/plain", "Content-Length: 20001")
        clients[-1].send(upload)
        clients[-1].send(_BODY)

        def stop() -> None:
            stage.streams.release()
            stage.site.drain()
            stage.turn(6)
            while clients:
                clients.pop().leave()
            stage.turn(6)

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
