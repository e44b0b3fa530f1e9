"""Tests of `durable_streams_tw.embedded`: calls in the process, and ``async for``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from klein import Klein
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

import durable_streams_tw
from durable_streams_tw import Batch, DurableStreams, Settings, StreamError, StreamInfo, Written
from durable_streams_tw.http import limits
from durable_streams_tw.live.limits import LONG_POLL_TIMEOUT
from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.storage.postgres.connection import DatabaseSettings
from tests.http.server_fixture import Client, FakeThreads, ServerFixture
from tests.tokens import at, bare, position_of

T = TypeVar("T")


class Case(SynchronousTestCase):
    """Test case with a `DurableStreams` in memory."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()
        self.streams = self.fixture.streams

    def now(self, asked: Awaitable[T]) -> T:
        """Return the result of a call that fires at once."""
        assert isinstance(asked, Deferred)
        result: T = self.successResultOf(asked)
        return result

    def refused(self, asked: Deferred[Any], problem: Problem) -> StreamError:
        """Check that a call is refused with a problem."""
        error = self.failureResultOf(asked, StreamError).value
        assert isinstance(error, StreamError)
        self.assertEqual(error.problem, problem)
        self.assertEqual(error.status, problem.status)
        return error


class CallTests(Case):
    """Methods of `DurableStreams`."""

    def test_names(self) -> None:
        """The package exports the public names."""
        for name in durable_streams_tw.__all__:
            self.assertIsInstance(getattr(durable_streams_tw, name), type)
        self.assertRaises(AttributeError, getattr, durable_streams_tw, "Nonsense")

    def test_create(self) -> None:
        """`create` returns the stream, new or existing."""
        made = self.now(self.streams.create("a/b c", "text/plain", "é"))
        self.assertEqual(
            replace(made, offset=bare(made.offset)),
            StreamInfo("a/b c", "text/plain", at(2), closed=False, created=True),
        )
        again = self.now(self.streams.create("a/b c", "text/plain"))
        self.assertFalse(again.created)
        self.refused(self.streams.create("a/b c", "application/json"), Problem.STREAM_EXISTS)
        self.assertEqual(self.fixture.ask("GET", "a/b%20c").body, "é".encode())

    def test_lifetimes(self) -> None:
        """A TTL or a deadline, as text or datetime, but not both."""
        self.assertEqual(self.now(self.streams.create("a", ttl=60)).ttl, 60)
        moment = datetime(2030, 1, 31, 12, tzinfo=UTC)
        made = self.now(self.streams.create("b", expires_at=moment))
        self.assertEqual(made.expires_at, "2030-01-31T12:00:00+00:00")
        again = self.now(self.streams.create("b", expires_at="2030-01-31T12:00:00Z"))
        self.assertFalse(again.created)
        both = self.streams.create("c", ttl=60, expires_at=moment)
        self.refused(both, Problem.MALFORMED_FIELD)
        naive = datetime(2030, 1, 31)  # noqa: DTZ001
        self.assertRaises(ValueError, self.streams.create, "c", expires_at=naive)

    def test_fork(self) -> None:
        """The source of a fork is given by name, with any characters."""
        self.now(self.streams.create("über/100%", "text/plain", "abc"))
        fork = self.streams.create("b", forked_from="über/100%", fork_offset=at(2))
        self.assertEqual(position_of(self.now(fork).offset), 2)
        self.assertEqual(self.now(self.streams.read("b")).data, b"ab")
        part = self.streams.create(
            "c", forked_from="über/100%", fork_offset=at(0), fork_sub_offset=1
        )
        self.assertEqual(position_of(self.now(part).offset), 1)

    def test_append(self) -> None:
        """Bytes and text are appended; without a type the stream's own is assumed."""
        self.now(self.streams.create("a", "text/plain"))
        first = self.now(self.streams.append("a", b"x"))
        self.assertEqual(
            replace(first, offset=bare(first.offset)),
            Written(at(1), closed=False, duplicate=False),
        )
        self.now(self.streams.append("a", "é", content_type="text/plain"))
        self.refused(
            self.streams.append("a", b"1", content_type="application/json"),
            Problem.CONTENT_TYPE_MISMATCH,
        )
        self.refused(self.streams.append("a"), Problem.EMPTY_BODY)
        self.refused(self.streams.append("missing", b"x"), Problem.STREAM_NOT_FOUND)
        self.assertEqual(self.now(self.streams.read("a")).data, "xé".encode())

    def test_other_types(self) -> None:
        """Data that are neither bytes nor text are an error of the caller."""
        self.now(self.streams.create("a", "text/plain"))
        data: Any = {"x": 1}
        self.assertRaises(TypeError, self.streams.append, "a", data)
        self.assertRaises(TypeError, self.streams.create, "b", "text/plain", data)

    def test_append_json(self) -> None:
        """In JSON mode, one message or an array is appended."""
        self.now(self.streams.create("a", "application/json"))
        self.now(self.streams.append("a", '{"n": 1}'))
        self.now(self.streams.append("a", b"[2, [3]]"))
        self.refused(self.streams.append("a", b"{"), Problem.INVALID_JSON)
        batch = self.now(self.streams.read("a"))
        self.assertEqual(batch.data, b'[{"n": 1},2,[3]]')
        self.assertEqual(batch.json(), [{"n": 1}, 2, [3]])

    def test_append_in_order(self) -> None:
        """Appends take effect in the order of the calls."""
        threads = FakeThreads()
        streams = ServerFixture(in_thread=threads).streams
        self.now(streams.create("a", "application/json"))
        large = '"' + "x" * limits.INLINE_BODY + '"'
        written = [streams.append("a", large), streams.append("a", "1"), streams.append("a", "2")]
        self.assertNoResult(written[-1])
        threads.run()
        ends = [self.now(each).offset for each in written]
        self.assertEqual(ends, sorted(ends))
        self.assertEqual(self.now(streams.read("a")).json(), ["x" * limits.INLINE_BODY, 1, 2])

    def test_producer(self) -> None:
        """A producer's retry is a duplicate."""
        self.now(self.streams.create("a", "text/plain"))
        for duplicate in (False, True):
            written = self.now(self.streams.append("a", b"x", producer=("p", 0, 0)))
            self.assertEqual(written.duplicate, duplicate)
        self.refused(self.streams.append("a", b"x", producer=("p", 0, 2)), Problem.SEQUENCE_GAP)
        self.now(self.streams.close("a", producer=("p", 0, 1)))
        self.assertTrue(self.now(self.streams.close("a", producer=("p", 0, 1))).duplicate)

    def test_sequence(self) -> None:
        self.now(self.streams.create("a", "text/plain"))
        self.now(self.streams.append("a", b"x", seq="2"))
        self.refused(self.streams.append("a", b"x", seq="1"), Problem.SEQUENCE_REGRESSION)

    def test_close(self) -> None:
        """A stream is closed with its last bytes or without."""
        self.now(self.streams.create("a", "text/plain"))
        self.assertTrue(self.now(self.streams.append("a", b"x", close=True)).closed)
        self.assertTrue(self.now(self.streams.close("a")).closed)
        self.refused(self.streams.append("a", b"y"), Problem.STREAM_CLOSED)
        self.assertTrue(self.now(self.streams.head("a")).closed)

    def test_read(self) -> None:
        self.now(self.streams.create("a", "text/plain", b"abcdef"))
        first = self.now(self.streams.read("a", limit=4))
        self.assertEqual(
            replace(first, offset=bare(first.offset)),
            Batch("text/plain", b"abcd", at(4), up_to_date=False, closed=False),
        )
        rest = self.now(self.streams.read("a", first.offset))
        self.assertEqual((rest.data, rest.up_to_date), (b"ef", True))
        self.assertEqual(self.now(self.streams.read("a", "now")).data, b"")
        self.refused(self.streams.read("a", "nonsense"), Problem.MALFORMED_OFFSET)
        self.refused(self.streams.read("a", at(7)), Problem.OFFSET_OUT_OF_RANGE)

    def test_delete(self) -> None:
        self.now(self.streams.create("a"))
        self.assertIsNone(self.now(self.streams.delete("a")))
        self.refused(self.streams.delete("a"), Problem.STREAM_NOT_FOUND)
        self.refused(self.streams.head("a"), Problem.STREAM_NOT_FOUND)

    def test_names_of_streams(self) -> None:
        """Names follow the rules of URLs over HTTP."""
        calls: list[Callable[[str], Deferred[Any]]] = [
            self.streams.create,
            lambda path: self.streams.append(path, b"x"),
            self.streams.close,
            self.streams.read,
            self.streams.head,
            self.streams.delete,
        ]
        for call in calls:
            for path in ("", "/a", "a//b", "../a", "a\x00", "x" * 2049):
                self.refused(call(path), Problem.MALFORMED_PATH)
            self.refused(call("__ds/x"), Problem.NOT_FOUND)

    def test_expired_streams_are_swept(self) -> None:
        """Expired streams are deleted without a request."""
        self.now(self.streams.create("a", ttl=2))
        self.now(self.streams.create("b"))
        store: Any = self.streams._store
        self.fixture.clock.pump([1.0] * 4)
        self.assertEqual(store.count(), 1)
        self.now(self.streams.stopService())
        self.assertEqual(self.fixture.clock.getDelayedCalls(), [])

    def test_stop_with_a_bug(self) -> None:
        """The store is closed even if an earlier step of stopping fails."""
        closed: list[str] = []

        def stop() -> None:
            raise ZeroDivisionError

        self.patch(self.streams._broadcaster, "stop", stop)
        self.patch(self.streams._subscriptions, "stop", stop)
        self.patch(self.streams._store, "close", lambda: closed.append("store"))
        self.now(self.streams.stopService())
        self.assertEqual(closed, ["store"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_two_stores(self) -> None:
        """A directory and a database together are an error of the caller."""
        settings = DatabaseSettings("postgresql://db/streams")
        self.assertRaises(ValueError, DurableStreams, "data", database=settings)

    def test_not_started(self) -> None:
        """Streams on disk refuse requests before the service has started, and say so."""
        streams = DurableStreams(self.mktemp(), reactor=self.fixture.clock)
        error = self.refused(streams.create("a"), Problem.STOPPING)
        self.assertIn("has not started", str(error))

    def test_started_once(self) -> None:
        self.now(self.streams.stopService())
        self.assertRaises(RuntimeError, self.streams.startService)


class Reader:
    """Coroutine that follows a stream and keeps its batches."""

    def __init__(self, streams: DurableStreams, path: str, offset: str = "-1") -> None:
        self.got: list[bytes] = []
        self.done = ensureDeferred(self._read(streams, path, offset))

    async def _read(self, streams: DurableStreams, path: str, offset: str) -> str:
        async for batch in streams.tail(path, offset):
            self.got.append(batch.data)
            if batch.data == b"stop":
                return "left"
        return "ended"


class TailTests(Case):
    """``async for`` over `DurableStreams.tail`."""

    def setUp(self) -> None:
        super().setUp()
        self.now(self.streams.create("a", "text/plain", b"old"))

    def append(self, data: bytes, close: bool = False) -> None:
        """Append, and run the callbacks that are due."""
        self.now(self.streams.append("a", data, close=close))
        self.fixture.turn()

    def nothing_is_held(self) -> None:
        """Check that no long-poll waits and no stream is followed."""
        self.assertEqual(self.streams._long_polls.count, 0)
        store: Any = self.streams._store
        self.assertEqual(store.access._pins, {})

    def test_follows_to_the_end(self) -> None:
        """The iterator returns stored bytes, then new ones, and ends when the stream is closed."""
        reader = Reader(self.streams, "a")
        self.assertEqual(reader.got, [b"old"])
        self.append(b"new")
        self.append(b"last", close=True)
        self.assertEqual(reader.got, [b"old", b"new", b"last"])
        self.assertEqual(self.now(reader.done), "ended")
        self.nothing_is_held()

    def test_closed_without_more(self) -> None:
        """Closing without bytes ends the iterator."""
        reader = Reader(self.streams, "a", "now")
        self.append(b"", close=True)
        self.assertEqual((reader.got, self.now(reader.done)), ([], "ended"))

    def test_closed_before(self) -> None:
        """A closed stream is read to its end."""
        self.append(b"", close=True)
        reader = Reader(self.streams, "a")
        self.assertEqual((reader.got, self.now(reader.done)), ([b"old"], "ended"))

    def test_disconnect(self) -> None:
        """Leaving the loop leaves nothing behind in the registry."""
        reader = Reader(self.streams, "a")
        self.append(b"stop")
        self.assertEqual(self.now(reader.done), "left")
        self.nothing_is_held()

    def test_cancelling(self) -> None:
        """Cancelling a waiting iterator leaves nothing behind in the registry."""
        reader = Reader(self.streams, "a")
        self.assertEqual(self.streams._long_polls.count, 1)
        reader.done.cancel()
        self.failureResultOf(reader.done, CancelledError)
        self.nothing_is_held()

    def test_waits_beyond_timeouts(self) -> None:
        """The iterator waits longer than a long-poll's timeout."""
        reader = Reader(self.streams, "a")
        for _ in range(10):
            self.fixture.clock.advance(LONG_POLL_TIMEOUT)
        self.append(b"new", close=True)
        self.assertEqual((reader.got, self.now(reader.done)), ([b"old", b"new"], "ended"))

    def test_appended_between_batches(self) -> None:
        """Bytes appended while the loop's body runs are in the next batch."""
        got: list[bytes] = []

        async def read() -> None:
            async for batch in self.streams.tail("a"):
                got.append(batch.data)
                if len(got) < 5:
                    await self.streams.append("a", b"%d" % len(got), close=len(got) == 4)

        done = ensureDeferred(read())
        self.fixture.turn()
        self.now(done)
        self.assertEqual(got, [b"old", b"1", b"2", b"3", b"4"])

    def test_large(self) -> None:
        """A large stream is read in bounded batches."""
        streams = ServerFixture(Settings(max_chunk=10)).streams
        self.now(streams.create("a", "text/plain", b"x" * 25, closed=True))
        reader = Reader(streams, "a")
        self.assertEqual([len(data) for data in reader.got], [10, 10, 5])
        self.assertEqual(self.now(reader.done), "ended")

    def test_json(self) -> None:
        """Each batch of a JSON stream is an array."""
        self.now(self.streams.create("j", "application/json", b"[1,2]", closed=True))
        reader = Reader(self.streams, "j")
        self.assertEqual(reader.got, [b"[1,2]"])

    def test_missing(self) -> None:
        self.refused(Reader(self.streams, "missing").done, Problem.STREAM_NOT_FOUND)

    def test_deleted(self) -> None:
        """Deleting the stream ends the iteration with an error, also if the name is used again."""
        reader = Reader(self.streams, "a")
        self.now(self.streams.delete("a"))
        self.now(self.streams.create("a", "text/plain", b"another"))
        self.fixture.turn()
        self.refused(reader.done, Problem.STREAM_NOT_FOUND)
        self.assertEqual(reader.got, [b"old"])
        self.nothing_is_held()

    def test_malformed(self) -> None:
        """A malformed path or offset raises at once."""
        self.assertRaises(StreamError, self.streams.tail, "a//b")
        self.assertRaises(StreamError, self.streams.tail, "a", "nonsense")

    def test_stopped(self) -> None:
        """Stopping the streams ends the iteration with an error."""
        reader = Reader(self.streams, "a")
        self.now(self.streams.stopService())
        self.fixture.turn()
        self.refused(reader.done, Problem.STOPPING)

    def test_keeps_a_stream_alive(self) -> None:
        """Following a stream renews its TTL."""
        self.now(self.streams.create("t", "text/plain", ttl=5))
        reader = Reader(self.streams, "t")
        self.fixture.clock.pump([1.0] * 20)
        self.assertEqual(self.now(self.streams.head("t")).ttl, 5)
        reader.done.addErrback(lambda _: None)
        reader.done.cancel()
        self.fixture.clock.pump([1.0] * 10)
        self.refused(self.streams.head("t"), Problem.STREAM_NOT_FOUND)


class RecipeTests(Case):
    """Examples of the documentation."""

    def test_a_klein_app_that_writes_and_follows(self) -> None:
        """A Klein app writes to streams that a coroutine follows."""
        streams = self.streams
        app = Klein()

        @app.route("/streams/", branch=True)
        def mounted(request: Request) -> IResource:
            return streams.resource()

        @app.route("/say/<word>")
        async def say(request: Request, word: str) -> bytes:
            await streams.create("chat", "application/json")
            written = await streams.append("chat", f'{{"word": "{word}"}}')
            return written.offset.encode()

        words: list[str] = []

        async def listen() -> None:
            await streams.create("chat", "application/json")
            async for batch in streams.tail("chat"):
                words.extend(message["word"] for message in batch.json())
                if "bye" in words:
                    break

        listening: Coroutine[Deferred[Any], Any, None] = listen()
        done = ensureDeferred(listening)
        client = Client(Site(app.resource(), reactor=self.fixture.clock))
        self.assertEqual(bare(client.ask("GET", "/say/hello").body.decode()), at(18))
        self.fixture.turn()
        client.ask("GET", "/say/bye")
        self.fixture.turn()
        self.now(done)
        self.assertEqual(words, ["hello", "bye"])
        self.assertEqual(
            client.ask("GET", "/streams/chat").body, b'[{"word": "hello"},{"word": "bye"}]'
        )
