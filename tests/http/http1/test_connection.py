"""Tests of `durable_streams_tw.http.http1.connection`: requests and answers of one connection."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from durable_streams_tw.http import limits
from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.settings import Settings
from tests.http.hostile_rows import HOST, get, post, sized
from tests.http.http1_rig import Caller, Http1TestCase, ok


class OrderTests(Http1TestCase):
    """Requests are carried out, and answered, one by one."""

    def test_one_by_one(self) -> None:
        """What is sent behind a request waits for its answer."""
        client = self.connect()
        client.send(sized(b"one") + sized(b"two") + sized(b"three"))
        for body in (b"one", b"two", b"three"):
            self.assertEqual([request.body for request in self.handler.requests][-1], body)
            self.owed().callback(ok(body))
        self.assertEqual(client.bodies(), [b"one", b"two", b"three"])
        self.assertEqual(client.answers()[0].header["date"], "Fri, 15 Jan 2027 08:00:00 GMT")

    def test_one_send(self) -> None:
        """All that is answered at once goes out in one piece."""
        self.handler.at_once = ok(b"now")
        client = self.connect()
        client.send(sized() * 40)
        self.assertEqual(len(client.transport.writes), 1)
        self.assertEqual(client.bodies(), [b"now"] * 40)

    def test_many_connections(self) -> None:
        """What many are answered in one turn goes out behind the turn, each in one send."""
        self.handler.at_once = ok(b"x")
        callers = [self.connect() for _ in range(limits.DEFERRED_SEND_CONNECTIONS + 2)]
        gone, cut, *others = callers
        for caller in callers:
            caller.send(get())
            caller.send(get())
        self.assertEqual([caller.transport.writes for caller in callers], [[]] * len(callers))
        gone.leave()
        cut.protocol.abort()
        self.clock.advance(0)
        for caller in others:
            self.assertEqual(len(caller.transport.writes), 1)
            self.assertEqual(len(caller.answers()), 2)
        self.assertEqual(gone.transport.writes + cut.transport.writes, [])

    def test_last_word_of_many(self) -> None:
        """An end does not overtake what was gathered before it."""
        self.handler.at_once = ok(b"x")
        callers = [self.connect() for _ in range(limits.DEFERRED_SEND_CONNECTIONS)]
        callers[0].send(get())
        callers[0].send(b"nonsense\r\n\r\n")
        self.assertEqual([answer.status for answer in callers[0].answers()], [200, 400])
        self.clock.advance(0)
        self.assertEqual(len(callers[0].transport.writes), 1)

    def test_one_send_behind_a_wait(self) -> None:
        """So does what was waited for, with what is answered at once behind it."""
        client = self.connect()
        client.send(get() * 3)
        self.handler.at_once = ok(b"now")
        self.owed().callback(ok(b"late"))
        self.assertEqual(len(client.transport.writes), 1)
        self.assertEqual(client.bodies(), [b"late", b"now", b"now"])

    def test_before_a_wait(self) -> None:
        """What is answered does not wait for what is not."""
        self.handler.at_once = ok(b"now")
        client = self.connect()
        client.send(get())
        self.handler.at_once = None
        client.send(get() + get())
        self.assertEqual(client.bodies(), [b"now"])

    def test_before_a_fault(self) -> None:
        """Complete requests are answered before the error behind them."""
        client = self.connect()
        client.send(get() + get() + b"nonsense\r\n\r\n")
        self.owed().callback(ok(b"1"))
        self.assertFalse(client.transport.disconnecting)
        self.owed().callback(ok(b"2"))
        self.assertEqual(client.statuses(), [200, 200, 400])
        self.assertEqual(client.answers()[-1].header["connection"], "close")
        self.assertTrue(client.transport.disconnecting)

    def test_deep(self) -> None:
        """Thousands of requests, failed or not, are no deeper than one."""
        for answer in (ok(), Failure(ValueError())):
            self.handler.at_once = answer
            client = self.connect()
            client.send(get() * 3_000)
            for _ in range(60):
                self.clock.advance(0)
            self.assertEqual(len(client.answers()), 3_000)

    def test_others_have_a_turn(self) -> None:
        """A connection with many requests gives way to others."""
        self.handler.at_once = ok()
        client, other = self.connect(), self.connect()
        client.send(get() * 200)
        self.assertEqual(len(client.answers()), limits.MAX_PIPELINE)
        other.send(get())
        self.assertEqual(len(other.answers()), 1)
        self.clock.advance(0)
        self.assertEqual(len(client.answers()), 200)

    def test_queue_stops_reading(self) -> None:
        """Above so many requests that wait, nothing more is read until they are fewer."""
        client = self.connect()
        client.send(get() * (limits.MAX_PIPELINE + 1))
        self.assertFalse(client.transport.paused)
        client.send(get())
        self.assertTrue(client.transport.paused)
        self.owed().callback(ok())
        self.assertFalse(client.transport.paused)


class AnswerTests(Http1TestCase):
    """What becomes of answers, good or bad."""

    def test_failure_later(self) -> None:
        """A failed answer is an answer, and the connection goes on."""
        client = self.connect()
        client.send(get() + get())
        self.owed().errback(Failure(ValueError("private")))
        self.owed().callback(ok(b"fine"))
        self.assertEqual(client.statuses(), [500, 200])
        self.assertEqual(client.bodies(), [b"sorry", b"fine"])
        self.assertEqual(len(self.handler.failures), 1)

    def test_failure_at_once(self) -> None:
        """So is one that failed at once; nothing is left to be logged."""
        self.handler.at_once = Failure(ValueError("private"))
        client = self.connect()
        client.send(get())
        self.assertEqual(client.statuses(), [500])

    def test_torn(self) -> None:
        """An answer whose fields are broken is a bug, not an answer."""
        self.handler.at_once = Response(200, [(b"X", b"a\r\nY: b")])
        client = self.connect()
        client.send(get())
        self.assertEqual(client.statuses(), [500])

    def test_refusal(self) -> None:
        """A request that is refused by its head is not carried out."""
        client = self.connect()
        client.send(get(b"Stream-Seq: 1", b"Stream-Seq: 2", b"Origin: https://a"))
        (answer,) = client.answers()
        self.assertEqual((answer.status, self.handler.requests), (400, []))
        self.assertEqual(answer.header["content-type"], "application/problem+json")
        self.assertEqual(answer.header["x-content-type-options"], "nosniff")

    def test_bug(self) -> None:
        """A bug of the channel's own ends the connection, and is logged."""
        client = self.connect()
        client.send(get())
        self.owed().callback(Response(200, [(b"X", 5)]))  # type: ignore[list-item]
        self.assertTrue(client.transport.disconnected)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_head(self) -> None:
        """A HEAD has the fields of a body, not the body."""
        self.handler.at_once = ok(b"hello")
        client = self.connect()
        client.send(b"HEAD /v1/stream/s HTTP/1.1\r\n" + HOST + b"\r\n" + get())
        first, second = client.answers("HEAD", "GET")
        self.assertEqual((first.header["content-length"], first.body), ("5", b""))
        self.assertEqual(second.body, b"hello")

    def test_last(self) -> None:
        """Behind the last answer the connection is closed, and no request is carried out."""
        self.handler.at_once = ok(b"last")
        client = self.connect()
        client.send(get(b"Connection: close") + get())
        self.assertEqual(client.bodies(), [b"last"])
        self.assertTrue(client.transport.disconnecting)
        client.send(get())
        self.assertEqual(len(self.handler.requests), 1)

    def test_large(self) -> None:
        """A large answer is sent before the next request is carried out."""
        self.handler.at_once = ok(b"x" * limits.MIB)
        client = self.connect()
        client.send(get() * 3)
        self.assertEqual(len(client.transport.writes), 3)
        self.assertEqual(client.bodies(), [b"x" * limits.MIB] * 3)


class ContinueTests(Http1TestCase):
    """Clients that wait for a word before they send a body."""

    expect = post(b"Expect: 100-continue", b"Content-Length: 2")
    word = b"HTTP/1.1 100 Continue\r\n\r\n"

    def test_word(self) -> None:
        """The word is given, once."""
        client = self.connect()
        client.send(self.expect)
        self.assertEqual(client.transport.value(), self.word)
        client.send(b"h")
        client.send(b"i")
        self.assertEqual(client.transport.value(), self.word)
        self.assertEqual(self.handler.requests[0].body, b"hi")

    def test_behind_an_answer(self) -> None:
        """The word comes behind the answers to what was sent before."""
        client = self.connect()
        client.send(get() + self.expect)
        self.assertEqual(client.transport.value(), b"")
        self.owed().callback(ok(b"first"))
        self.assertTrue(client.transport.value().endswith(b"first" + self.word))

    def test_not_for_what_is_refused(self) -> None:
        """Nobody is asked for a body that is too large."""
        client = self.connect()
        client.send(post(b"Expect: 100-continue", b"Content-Length: 1001"))
        self.assertNotIn(self.word, client.transport.value())
        self.assertEqual(client.statuses(), [413])


class PressureTests(Http1TestCase):
    """Clients that do not read."""

    def test_no_more_requests(self) -> None:
        """While a client does not read, nothing is taken from it."""
        client = self.connect()
        client.send(get() * 2)
        client.is_full()
        self.assertTrue(client.transport.paused)
        self.owed().callback(ok(b"1"))
        self.assertEqual(len(self.handler.requests), 1)
        client.send(get())
        client.is_empty()
        self.assertFalse(client.transport.paused)
        self.owed().callback(ok(b"2"))
        self.owed().callback(ok(b"3"))
        self.assertEqual(client.bodies(), [b"1", b"2", b"3"])

    def test_full_within_a_write(self) -> None:
        """A transport that is full after one answer stops the next at once."""
        client = self.connect()
        self.handler.at_once = ok(b"x" * limits.MIB)
        transport: Any = client.transport
        write, count = transport.write, 0

        def fill(data: bytes) -> None:
            nonlocal count
            count += 1
            write(data)
            client.is_full()

        transport.write = fill
        client.send(get() * 3)
        self.assertEqual((count, len(self.handler.requests)), (1, 1))
        self.assertTrue(client.transport.paused)
        client.is_empty()
        self.assertEqual((count, len(self.handler.requests)), (2, 2))


class LeavingTests(Http1TestCase):
    """Clients that go."""

    def test_cancelled(self) -> None:
        """What is waited for is cancelled, what waited is not begun."""
        client = self.connect()
        client.send(get() + get())
        client.leave()
        self.assertEqual((self.handler.cancelled, len(self.handler.requests)), (1, 1))

    def test_answer_too_late(self) -> None:
        """An answer that comes in spite of that goes nowhere."""
        client = self.connect()
        client.send(get())
        answer = self.owed()
        shielded: Deferred[Response] = Deferred()
        answer.addErrback(lambda _: shielded)
        client.leave()
        shielded.callback(ok())
        self.assertEqual(client.transport.value(), b"")

    def test_within_a_request(self) -> None:
        """Half a request is no request."""
        client = self.connect()
        client.send(sized()[:-1])
        client.leave()
        self.assertEqual(self.handler.requests, [])

    def test_half_closed(self) -> None:
        """Who has ended one side still gets its answers, and then the end."""
        client = self.connect()
        verifyObject(IHalfCloseableProtocol, client.protocol)
        client.send(get() + get())
        client.protocol.readConnectionLost()
        self.owed().callback(ok(b"1"))
        self.assertFalse(client.transport.disconnecting)
        self.owed().callback(ok(b"2"))
        self.assertEqual(client.bodies(), [b"1", b"2"])
        self.assertTrue(client.transport.disconnecting)

    def test_half_closed_and_gone(self) -> None:
        """Who is gone looks the same, and is not waited for much longer."""
        client = self.connect()
        client.send(get())
        client.protocol.readConnectionLost()
        self.clock.pump([1.0] * int(limits.HALF_CLOSED_TIMEOUT - 1))
        self.assertFalse(client.transport.disconnected)
        self.clock.pump([1.0] * 3)
        self.assertTrue(client.transport.disconnected)

    def test_half_closed_idle(self) -> None:
        """Who has nothing to wait for is told the end at once, even within a request."""
        for data in (b"", get()[:9], sized()[:-1]):
            client = self.connect()
            client.send(data)
            client.protocol.readConnectionLost()
            self.assertTrue(client.transport.disconnecting, data)


class TimeoutTests(Http1TestCase):
    """Clients that take their time."""

    def check_late(self, client: Caller) -> None:
        """The client is told that it was too slow, and that is the end."""
        (answer,) = client.answers()
        self.assertEqual(answer.status, 408)
        self.assertTrue(client.transport.disconnecting)

    def test_head(self) -> None:
        """A head that has begun is complete in time, however it trickles in."""
        client = self.connect()
        self.wait(30)
        for index in range(int(limits.HEAD_TIMEOUT) - 1):
            client.send(get()[index : index + 1])
            self.wait(1)
        self.assertEqual(client.answers(), [])
        self.wait(2)
        self.check_late(client)

    def test_each_head(self) -> None:
        """Every head has its own time."""
        self.handler.at_once = ok()
        client = self.connect()
        for _ in range(10):
            self.wait(6)
            client.send(get()[20:] + get()[:20] if client.answers() else get() + get()[:20])
        self.assertEqual(set(client.statuses()), {200})
        self.wait(limits.HEAD_TIMEOUT + 1)
        self.assertEqual(client.answers()[-1].status, 408)

    def test_idle(self) -> None:
        """Between requests a connection is kept for a while, and then ended without a word."""
        self.handler.at_once = ok()
        client = self.connect()
        for _ in range(3):
            self.wait(limits.IDLE_TIMEOUT - 2)
            client.send(get())
            self.assertFalse(client.transport.disconnecting)
        self.wait(limits.IDLE_TIMEOUT + 1)
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(len(client.answers()), 3)

    def test_never_a_byte(self) -> None:
        """A client that never says anything is idle."""
        client = self.connect()
        self.wait(limits.IDLE_TIMEOUT - 1)
        self.assertFalse(client.transport.disconnecting)
        self.wait(2)
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(client.transport.value(), b"")

    def test_body(self) -> None:
        """A body pauses for a while at most."""
        client = self.connect()
        client.send(post(b"Content-Length: 1000"))
        self.wait(limits.BODY_TIMEOUT - 2)
        client.send(b"x")
        self.wait(limits.BODY_TIMEOUT - 2)
        self.assertEqual(client.answers(), [])
        self.wait(4)
        self.check_late(client)

    def test_answer(self) -> None:
        """Nobody's patience ends while we owe the answer."""
        client = self.connect()
        client.send(get() + get()[:5])
        self.wait(1_000)
        self.assertFalse(client.transport.disconnecting)
        self.owed().callback(ok())
        self.wait(limits.HEAD_TIMEOUT - 2)
        self.assertFalse(client.transport.disconnecting)
        self.wait(4)
        self.assertEqual(client.statuses(), [200, 408])

    def test_slow_reader(self) -> None:
        """A client that leaves an answer unread is given up in the end."""
        self.handler.at_once = ok()
        client = self.connect()
        client.send(get())
        client.is_full()
        self.wait(limits.SEND_TIMEOUT - 1)
        self.assertFalse(client.transport.disconnected)
        self.wait(2)
        self.assertTrue(client.transport.disconnected)

    def test_last_resort(self) -> None:
        """A connection that does not end when it should is cut."""
        client = self.connect()
        client.send(b"nonsense\r\n\r\n")
        self.assertTrue(client.transport.disconnecting)
        self.assertFalse(client.transport.disconnected)
        self.wait(limits.LINGER + 1)
        self.assertTrue(client.transport.disconnected)

    def test_no_timer_left(self) -> None:
        """A factory without connections has no timer."""
        clients = [self.connect() for _ in range(5)]
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for client in clients:
            client.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ShortBoundsTests(Http1TestCase):
    """Bounds that somebody has chosen."""

    settings = Settings(head_timeout=2, idle_timeout=4)

    def test_head(self) -> None:
        """The chosen times count."""
        client, other = self.connect(), self.connect()
        client.send(b"G")
        self.clock.pump([1.0] * 3)
        self.assertEqual(client.statuses(), [408])
        self.clock.pump([1.0] * 2)
        self.assertTrue(other.transport.disconnecting)


class LargeBodyTests(Http1TestCase):
    """Bodies of more than one read."""

    settings = Settings()

    def test_large_body_behind_a_wait(self) -> None:
        """Bytes that nobody works on yet are read up to a bound."""
        client = self.connect()
        client.send(get() + post(b"Content-Length: 1000000"))
        client.send(b"x" * limits.READ_AHEAD)
        self.assertFalse(client.transport.paused)
        client.send(b"x")
        self.assertTrue(client.transport.paused)
        self.owed().callback(ok())
        self.assertFalse(client.transport.paused)

    def test_many_bodies_behind_a_wait(self) -> None:
        """Whether they are complete or not makes no difference."""
        client = self.connect()
        client.send(get())
        body = b"x" * (limits.READ_AHEAD // 4)
        for _ in range(4):
            client.send(sized(body))
        self.assertFalse(client.transport.paused)
        client.send(sized(body))
        self.assertTrue(client.transport.paused)
        self.assertEqual(self.factory.bodies.held, 5 * len(body))
        self.owed().callback(ok())
        self.assertFalse(client.transport.paused)

    def test_bodies_have_a_bound(self) -> None:
        """All bodies that are on their way hold so much together; the largest makes room."""
        self.factory.bodies.limit = limits.MIB
        clients = [self.connect() for _ in range(3)]
        for client in clients:
            client.send(post(b"Content-Length: 2000000", body=b"x" * 300_000))
            client.send(b"x" * 100_000)
        refused = [client for client in clients if client.answers()]
        self.assertEqual(len(refused), 1)
        self.assertIn(refused[0], clients[:2])
        self.assertEqual(refused[0].answers()[0].status, 503)
        self.assertEqual(refused[0].answers()[0].header["retry-after"], "1")
        self.assertEqual(self.factory.bodies.held, 800_000)
        clients[2].leave()
        self.assertEqual(self.factory.bodies.held, 400_000)
        (last,) = [client for client in clients[:2] if client not in refused]
        self.factory.bodies.limit = 2 * limits.MIB
        last.send(b"x" * 1_600_000)
        # Until it is answered.
        self.assertEqual(self.factory.bodies.held, 2_000_000)
        self.owed().callback(ok())
        self.assertEqual((self.factory.bodies.held, len(self.handler.requests)), (0, 1))

    def test_slow_body(self) -> None:
        """One that does takes as long as it likes."""
        client = self.connect()
        client.send(post(b"Content-Length: 100000"))
        for _ in range(20):
            client.send(b"x" * 10)
            self.wait(limits.BODY_TIMEOUT // 2)
        self.assertEqual(client.answers(), [])
        self.wait(limits.BODY_TIMEOUT)
        self.assertEqual(client.statuses(), [408])
