"""Tests of `durable_streams_tw.http.http1.connection`."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from durable_streams_tw.http import limits
from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.settings import Settings
from tests.http.http1.connection_case import FactoryClient, Http1TestCase, ok
from tests.http.malformed.builders import HOST, get, post, sized


class OrderTests(Http1TestCase):
    """Order of requests and responses."""

    def test_one_by_one(self) -> None:
        """A pipelined request waits for the response before it."""
        client = self.connect()
        client.send(sized(b"one") + sized(b"two") + sized(b"three"))
        for body in (b"one", b"two", b"three"):
            self.assertEqual([request.body for request in self.handler.requests][-1], body)
            self.pending_response().callback(ok(body))
        self.assertEqual(client.bodies(), [b"one", b"two", b"three"])
        self.assertEqual(client.answers()[0].header["date"], "Fri, 15 Jan 2027 08:00:00 GMT")

    def test_one_send(self) -> None:
        """Responses that are ready together go out in one write."""
        self.handler.at_once = ok(b"now")
        client = self.connect()
        client.send(sized() * 40)
        self.assertEqual(len(client.transport.writes), 1)
        self.assertEqual(client.bodies(), [b"now"] * 40)

    def test_many_connections_share_a_turn(self) -> None:
        """With many connections, responses of one turn are written at its end, once per
        connection.
        """
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

    def test_last_response_keeps_its_order(self) -> None:
        """The last response of a connection does not overtake buffered ones."""
        self.handler.at_once = ok(b"x")
        callers = [self.connect() for _ in range(limits.DEFERRED_SEND_CONNECTIONS)]
        callers[0].send(get())
        callers[0].send(b"nonsense\r\n\r\n")
        self.assertEqual([answer.status for answer in callers[0].answers()], [200, 400])
        self.clock.advance(0)
        self.assertEqual(len(callers[0].transport.writes), 1)

    def test_one_write_after_a_pending_response(self) -> None:
        """A pending response goes out in one write with those that are ready after it."""
        client = self.connect()
        client.send(get() * 3)
        self.handler.at_once = ok(b"now")
        self.pending_response().callback(ok(b"late"))
        self.assertEqual(len(client.transport.writes), 1)
        self.assertEqual(client.bodies(), [b"late", b"now", b"now"])

    def test_before_a_pending_response(self) -> None:
        """A response that is ready does not wait for a pending one."""
        self.handler.at_once = ok(b"now")
        client = self.connect()
        client.send(get())
        self.handler.at_once = None
        client.send(get() + get())
        self.assertEqual(client.bodies(), [b"now"])

    def test_before_a_fault(self) -> None:
        """Complete requests get their responses before the refusal of the bytes after them."""
        client = self.connect()
        client.send(get() + get() + b"nonsense\r\n\r\n")
        self.pending_response().callback(ok(b"1"))
        self.assertFalse(client.transport.disconnecting)
        self.pending_response().callback(ok(b"2"))
        self.assertEqual(client.statuses(), [200, 200, 400])
        self.assertEqual(client.answers()[-1].header["connection"], "close")
        self.assertTrue(client.transport.disconnecting)

    def test_deep(self) -> None:
        """Thousands of queued requests do not recurse."""
        for answer in (ok(), Failure(ValueError())):
            self.handler.at_once = answer
            client = self.connect()
            client.send(get() * 3_000)
            for _ in range(60):
                self.clock.advance(0)
            self.assertEqual(len(client.answers()), 3_000)

    def test_others_have_a_turn(self) -> None:
        """A connection with many requests yields to others."""
        self.handler.at_once = ok()
        client, other = self.connect(), self.connect()
        client.send(get() * 200)
        self.assertEqual(len(client.answers()), limits.MAX_PIPELINE)
        other.send(get())
        self.assertEqual(len(other.answers()), 1)
        self.clock.advance(0)
        self.assertEqual(len(client.answers()), 200)

    def test_queue_stops_reading(self) -> None:
        """Reading pauses while more than `MAX_PIPELINE` requests are queued."""
        client = self.connect()
        client.send(get() * (limits.MAX_PIPELINE + 1))
        self.assertFalse(client.transport.paused)
        client.send(get())
        self.assertTrue(client.transport.paused)
        self.pending_response().callback(ok())
        self.assertFalse(client.transport.paused)


class AnswerTests(Http1TestCase):
    """Responses to successful and failed requests."""

    def test_failure_later(self) -> None:
        """A failed result becomes an error response, and the connection stays open."""
        client = self.connect()
        client.send(get() + get())
        self.pending_response().errback(Failure(ValueError("private")))
        self.pending_response().callback(ok(b"fine"))
        self.assertEqual(client.statuses(), [500, 200])
        self.assertEqual(client.bodies(), [b"sorry", b"fine"])
        self.assertEqual(len(self.handler.failures), 1)

    def test_failure_at_once(self) -> None:
        """An already failed result becomes an error response; no unhandled error is logged."""
        self.handler.at_once = Failure(ValueError("private"))
        client = self.connect()
        client.send(get())
        self.assertEqual(client.statuses(), [500])

    def test_torn(self) -> None:
        """A response with an invalid header becomes an error response."""
        self.handler.at_once = Response(200, [(b"X", b"a\r\nY: b")])
        client = self.connect()
        client.send(get())
        self.assertEqual(client.statuses(), [500])

    def test_refusal(self) -> None:
        """A request that is refused by its head is not executed."""
        client = self.connect()
        client.send(get(b"Stream-Seq: 1", b"Stream-Seq: 2", b"Origin: https://a"))
        (answer,) = client.answers()
        self.assertEqual((answer.status, self.handler.requests), (400, []))
        self.assertEqual(answer.header["content-type"], "application/problem+json")
        self.assertEqual(answer.header["x-content-type-options"], "nosniff")

    def test_bug(self) -> None:
        """An internal error of the connection closes it and is logged."""
        client = self.connect()
        client.send(get())
        self.pending_response().callback(Response(200, [(b"X", 5)]))  # type: ignore[list-item]
        self.assertTrue(client.transport.disconnected)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_head(self) -> None:
        """A response to HEAD has the headers of a body and no body."""
        self.handler.at_once = ok(b"hello")
        client = self.connect()
        client.send(b"HEAD /v1/stream/s HTTP/1.1\r\n" + HOST + b"\r\n" + get())
        first, second = client.answers("HEAD", "GET")
        self.assertEqual((first.header["content-length"], first.body), ("5", b""))
        self.assertEqual(second.body, b"hello")

    def test_last(self) -> None:
        """After the last response the connection is closed, and no request is executed."""
        self.handler.at_once = ok(b"last")
        client = self.connect()
        client.send(get(b"Connection: close") + get())
        self.assertEqual(client.bodies(), [b"last"])
        self.assertTrue(client.transport.disconnecting)
        client.send(get())
        self.assertEqual(len(self.handler.requests), 1)

    def test_large(self) -> None:
        """A large response is sent before the next request is executed."""
        self.handler.at_once = ok(b"x" * limits.MIB)
        client = self.connect()
        client.send(get() * 3)
        self.assertEqual(len(client.transport.writes), 3)
        self.assertEqual(client.bodies(), [b"x" * limits.MIB] * 3)


class ContinueTests(Http1TestCase):
    """Expect: 100-continue."""

    expect = post(b"Expect: 100-continue", b"Content-Length: 2")
    word = b"HTTP/1.1 100 Continue\r\n\r\n"

    def test_word(self) -> None:
        """100 Continue is sent once."""
        client = self.connect()
        client.send(self.expect)
        self.assertEqual(client.transport.value(), self.word)
        client.send(b"h")
        client.send(b"i")
        self.assertEqual(client.transport.value(), self.word)
        self.assertEqual(self.handler.requests[0].body, b"hi")

    def test_after_a_response(self) -> None:
        """100 Continue follows the responses to earlier requests."""
        client = self.connect()
        client.send(get() + self.expect)
        self.assertEqual(client.transport.value(), b"")
        self.pending_response().callback(ok(b"first"))
        self.assertTrue(client.transport.value().endswith(b"first" + self.word))

    def test_not_for_what_is_refused(self) -> None:
        """A body that is too large is refused without 100 Continue."""
        client = self.connect()
        client.send(post(b"Expect: 100-continue", b"Content-Length: 1001"))
        self.assertNotIn(self.word, client.transport.value())
        self.assertEqual(client.statuses(), [413])


class PressureTests(Http1TestCase):
    """Clients that do not read."""

    def test_no_more_requests(self) -> None:
        """Nothing is read from a client that does not read."""
        client = self.connect()
        client.send(get() * 2)
        client.is_full()
        self.assertTrue(client.transport.paused)
        self.pending_response().callback(ok(b"1"))
        self.assertEqual(len(self.handler.requests), 1)
        client.send(get())
        client.is_empty()
        self.assertFalse(client.transport.paused)
        self.pending_response().callback(ok(b"2"))
        self.pending_response().callback(ok(b"3"))
        self.assertEqual(client.bodies(), [b"1", b"2", b"3"])

    def test_full_within_a_write(self) -> None:
        """A response that fills the transport delays the next request."""
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
    """Clients that disconnect."""

    def test_cancelled(self) -> None:
        """The pending request is cancelled, and queued ones are not executed."""
        client = self.connect()
        client.send(get() + get())
        client.leave()
        self.assertEqual((self.handler.cancelled, len(self.handler.requests)), (1, 1))

    def test_answer_too_late(self) -> None:
        """A result that arrives after the disconnect is ignored."""
        client = self.connect()
        client.send(get())
        answer = self.pending_response()
        shielded: Deferred[Response] = Deferred()
        answer.addErrback(lambda _: shielded)
        client.leave()
        shielded.callback(ok())
        self.assertEqual(client.transport.value(), b"")

    def test_within_a_request(self) -> None:
        """An incomplete request is not executed."""
        client = self.connect()
        client.send(sized()[:-1])
        client.leave()
        self.assertEqual(self.handler.requests, [])

    def test_half_closed(self) -> None:
        """A half-closed client gets its responses, and then the connection closes."""
        client = self.connect()
        verifyObject(IHalfCloseableProtocol, client.protocol)
        client.send(get() + get())
        client.protocol.readConnectionLost()
        self.pending_response().callback(ok(b"1"))
        self.assertFalse(client.transport.disconnecting)
        self.pending_response().callback(ok(b"2"))
        self.assertEqual(client.bodies(), [b"1", b"2"])
        self.assertTrue(client.transport.disconnecting)

    def test_half_closed_and_gone(self) -> None:
        """A half-closed client waits no longer than `HALF_CLOSED_TIMEOUT`."""
        client = self.connect()
        client.send(get())
        client.protocol.readConnectionLost()
        self.clock.pump([1.0] * int(limits.HALF_CLOSED_TIMEOUT - 1))
        self.assertFalse(client.transport.disconnected)
        self.clock.pump([1.0] * 3)
        self.assertTrue(client.transport.disconnected)

    def test_half_closed_idle(self) -> None:
        """A half-closed client without a pending response is closed, even within a request."""
        for data in (b"", get()[:9], sized()[:-1]):
            client = self.connect()
            client.send(data)
            client.protocol.readConnectionLost()
            self.assertTrue(client.transport.disconnecting, data)


class TimeoutTests(Http1TestCase):
    """Timeouts."""

    def check_late(self, client: FactoryClient) -> None:
        """A timed-out request gets 408, and the connection closes."""
        (answer,) = client.answers()
        self.assertEqual(answer.status, 408)
        self.assertTrue(client.transport.disconnecting)

    def test_head(self) -> None:
        """A head has to be complete in time, even if bytes keep arriving."""
        client = self.connect()
        self.wait(30)
        for index in range(int(limits.HEAD_TIMEOUT) - 1):
            client.send(get()[index : index + 1])
            self.wait(1)
        self.assertEqual(client.answers(), [])
        self.wait(2)
        self.check_late(client)

    def test_each_head(self) -> None:
        """Each head has a timeout of its own."""
        self.handler.at_once = ok()
        client = self.connect()
        for _ in range(10):
            self.wait(6)
            client.send(get()[20:] + get()[:20] if client.answers() else get() + get()[:20])
        self.assertEqual(set(client.statuses()), {200})
        self.wait(limits.HEAD_TIMEOUT + 1)
        self.assertEqual(client.answers()[-1].status, 408)

    def test_idle(self) -> None:
        """An idle connection is closed after its timeout, without a response."""
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
        """A connection without any request is idle."""
        client = self.connect()
        self.wait(limits.IDLE_TIMEOUT - 1)
        self.assertFalse(client.transport.disconnecting)
        self.wait(2)
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(client.transport.value(), b"")

    def test_body(self) -> None:
        """A body may pause for its timeout at most."""
        client = self.connect()
        client.send(post(b"Content-Length: 1000"))
        self.wait(limits.BODY_TIMEOUT - 2)
        client.send(b"x")
        self.wait(limits.BODY_TIMEOUT - 2)
        self.assertEqual(client.answers(), [])
        self.wait(4)
        self.check_late(client)

    def test_answer(self) -> None:
        """No timeout applies while a response is pending."""
        client = self.connect()
        client.send(get() + get()[:5])
        self.wait(1_000)
        self.assertFalse(client.transport.disconnecting)
        self.pending_response().callback(ok())
        self.wait(limits.HEAD_TIMEOUT - 2)
        self.assertFalse(client.transport.disconnecting)
        self.wait(4)
        self.assertEqual(client.statuses(), [200, 408])

    def test_slow_reader(self) -> None:
        """A client that leaves a response unread is disconnected."""
        self.handler.at_once = ok()
        client = self.connect()
        client.send(get())
        client.is_full()
        self.wait(limits.SEND_TIMEOUT - 1)
        self.assertFalse(client.transport.disconnected)
        self.wait(2)
        self.assertTrue(client.transport.disconnected)

    def test_last_resort(self) -> None:
        """A connection that does not close in time is reset."""
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
    """Timeouts from the settings."""

    settings = Settings(head_timeout=2, idle_timeout=4)

    def test_head(self) -> None:
        """The configured timeouts apply."""
        client, other = self.connect(), self.connect()
        client.send(b"G")
        self.clock.pump([1.0] * 3)
        self.assertEqual(client.statuses(), [408])
        self.clock.pump([1.0] * 2)
        self.assertTrue(other.transport.disconnecting)


class LargeBodyTests(Http1TestCase):
    """Bodies of several packets."""

    settings = Settings()

    def test_large_body_after_a_pending_request(self) -> None:
        """Bytes of queued requests are read up to a limit."""
        client = self.connect()
        client.send(get() + post(b"Content-Length: 1000000"))
        client.send(b"x" * limits.READ_AHEAD)
        self.assertFalse(client.transport.paused)
        client.send(b"x")
        self.assertTrue(client.transport.paused)
        self.pending_response().callback(ok())
        self.assertFalse(client.transport.paused)

    def test_many_bodies_after_a_pending_request(self) -> None:
        """The limit holds for complete and incomplete requests."""
        client = self.connect()
        client.send(get())
        body = b"x" * (limits.READ_AHEAD // 4)
        for _ in range(4):
            client.send(sized(body))
        self.assertFalse(client.transport.paused)
        client.send(sized(body))
        self.assertTrue(client.transport.paused)
        self.assertEqual(self.factory.bodies.held, 5 * len(body))
        self.pending_response().callback(ok())
        self.assertFalse(client.transport.paused)

    def test_bodies_have_a_bound(self) -> None:
        """The bodies of all connections share a limit; the largest one is refused."""
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
        # Until the response is sent.
        self.assertEqual(self.factory.bodies.held, 2_000_000)
        self.pending_response().callback(ok())
        self.assertEqual((self.factory.bodies.held, len(self.handler.requests)), (0, 1))

    def test_slow_body(self) -> None:
        """A request that is executed is not read ahead without a limit."""
        client = self.connect()
        client.send(post(b"Content-Length: 100000"))
        for _ in range(20):
            client.send(b"x" * 10)
            self.wait(limits.BODY_TIMEOUT // 2)
        self.assertEqual(client.answers(), [])
        self.wait(limits.BODY_TIMEOUT)
        self.assertEqual(client.statuses(), [408])
