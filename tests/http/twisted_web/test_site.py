"""Tests of `durable_streams_tw.http.twisted_web.site`: limits, refusals and draining."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from durable_streams_tw import StreamRequest
from durable_streams_tw.http import limits
from durable_streams_tw.http.response_headers import ResponseHeaders
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.twisted_web.site import StreamSite
from tests.http.server_fixture import ROOT, Answer, Client, ServerFixture

GET = f"GET {ROOT}a HTTP/1.1\r\n"
POST = f"POST {ROOT}a HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n"


def problem(answer: Answer) -> str:
    """Return the last part of the problem's type."""
    return str(json.loads(answer.body)["type"]).rpartition(":")[2]


class HeadTests(SynchronousTestCase):
    """Malformed and incomplete heads."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()
        self.fixture.put("a", body=b"x")

    def check(self, data: str | bytes, status: int, kind: str) -> Client:
        """Assert this response, and that the connection accepts nothing more."""
        client = self.fixture.connect()
        client.send(data.encode("latin-1") if isinstance(data, str) else data)
        self.assertEqual(client.transport.value()[:9], b"HTTP/1.1 ", data[:80])
        (answer,) = client.answers()
        self.assertEqual((answer.status, problem(answer)), (status, kind), data[:80])
        self.assertEqual(answer.header["content-type"], "application/problem+json")
        self.assertEqual(answer.header["access-control-allow-origin"], "*")
        return client

    def refused(self, data: str | bytes, status: int, kind: str) -> None:
        """Assert this response before a request is complete."""
        client = self.check(data, status, kind)
        self.assertEqual(client.answers()[0].header["connection"], "close")
        client.transport.clear()
        client.send(f"{GET}Host: h\r\n\r\n".encode())
        self.assertEqual(client.transport.value(), b"")
        self.fixture.clock.advance(limits.LINGER + 1)
        self.assertTrue(client.transport.disconnected)
        client.leave()

    def test_malformed(self) -> None:
        """Malformed request lines and headers."""
        for data in (
            "GET\r\n\r\n",
            "nonsense without end \r\n\r\n",
            f"GET {ROOT}a\r\n\r\n",
            f"GET {ROOT}a b HTTP/1.1\r\n\r\n",
            f"G\x00T {ROOT}a HTTP/1.1\r\n\r\n",
            f"{GET}Host: h\r\nno colon\r\n\r\n",
            f"{GET}Host: h\r\nX: a\x00b\r\n\r\n",
            f"{GET}Host: h\r\nX Y: a\r\n\r\n",
            f"{GET}Host: h\r\nContent-Length: x\r\n\r\n",
            f"{GET}Host: h\r\nContent-Length: -1\r\n\r\n",
            f"{GET}Host: h\r\nContent-Length: 1, 1\r\n\r\n",
            f"{GET}Host: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            f"{GET}Host: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            f"{POST}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            f"{POST}Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n",
        ):
            self.refused(data, 400, "malformed-request")
        for version in ("0.9", "1.2", "2.0"):
            self.refused(f"GET {ROOT}a HTTP/{version}\r\n\r\n", 505, "unknown-version")
        coding = f"{GET}Host: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
        self.refused(coding, 501, "unknown-coding")

    def test_hosts(self) -> None:
        """Exactly one valid Host is required: Klein never sees another."""
        for host in (
            "",
            "Host: a\r\nHost: b\r\n",
            "Host: a\r\nHost: a\r\n",
            "Host: \r\n",
            "Host: a b\r\n",
            "Host: a..b\r\n",
            "Host: .\r\n",
            f"Host: {'a' * 64}.example\r\n",
            "Host: caf\xe9\r\n",
            "Host: a/b\r\n",
            "Host: [::1\r\n",
            "Host: user@host\r\n",
        ):
            self.check(f"{GET}{host}\r\n", 400, "malformed-request")
        for host in ("h", "h:80", "H.example.", "[::1]:4437", "127.0.0.1", "a_b", "xn--caf-dma"):
            client = self.fixture.connect()
            client.send(f"{GET}Host: {host}\r\n\r\n".encode())
            self.fixture.clock.advance(0)
            self.assertEqual(client.answers()[0].status, 200, host)

    def test_targets(self) -> None:
        """Targets without a path."""
        for line in ("GET a", "GET streams.example:80", "CONNECT streams.example:80", "GET *"):
            self.check(f"{line} HTTP/1.1\r\nHost: h\r\n\r\n", 400, "malformed-request")

    def test_options_of_the_server(self) -> None:
        """``OPTIONS *`` gets the usual response."""
        answer = self.fixture.connect().ask("OPTIONS", "*")
        self.assertEqual(answer.status, 204)
        self.assertIn("DELETE", answer.header["allow"])

    def test_long_targets(self) -> None:
        """A target beyond the limit of a head is 414."""
        self.refused(f"GET {ROOT}{'a' * 17_000}", 414, "target-too-long")
        self.refused(f"GET {ROOT}{'a' * 17_000} HTTP/1.1\r\n\r\n", 414, "target-too-long")

    def test_large_heads(self) -> None:
        """A head has at most 16 KiB and 100 headers."""
        field = f"X: {'x' * 1000}\r\n"
        self.refused(f"{GET}Host: h\r\n{field * 17}", 431, "head-too-large")
        self.refused(f"{GET}Host: h\r\nX: {'x' * 17_000}", 431, "head-too-large")
        many = "".join(f"X-{number}: y\r\n" for number in range(100))
        self.refused(f"{GET}Host: h\r\n{many}\r\n", 431, "head-too-large")

    def test_slow_heads(self) -> None:
        """A head has to be complete within ten seconds."""
        client = self.fixture.connect()
        for _ in range(9):
            client.send(b"G")
            self.fixture.clock.advance(1)
        self.assertEqual(client.transport.value(), b"")
        self.fixture.clock.advance(1.5)
        (answer,) = client.answers()
        self.assertEqual((answer.status, problem(answer)), (408, "request-timeout"))
        client.leave()
        self.assertEqual(len(self.fixture.site.connections), 0)

    def test_head_in_pieces(self) -> None:
        """A complete head leaves no timer."""
        client = self.fixture.connect()
        data = f"{GET}Host: h\r\n\r\n".encode()
        for byte in range(len(data)):
            client.send(data[byte : byte + 1])
        self.assertEqual(client.answers()[0].body, b"x")
        client.transport.clear()
        self.fixture.clock.advance(limits.HEAD_TIMEOUT + 1)
        self.assertEqual(client.transport.value(), b"")
        self.assertEqual(client.ask("GET", f"{ROOT}a").body, b"x")

    def test_idle_connections(self) -> None:
        """A connection without a request is closed without a response."""
        client = self.fixture.connect()
        self.fixture.clock.advance(limits.IDLE_TIMEOUT + 1)
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(client.transport.value(), b"")
        self.fixture.clock.advance(20)
        self.assertTrue(client.transport.disconnected)

    def test_pipelined(self) -> None:
        """Requests get their responses in order, also before a malformed one."""
        client = self.fixture.connect()
        client.send(f"{GET}Host: h\r\n\r\n".encode() * 3 + b"nonsense\r\n\r\n")
        self.assertEqual([answer.status for answer in client.answers()], [200, 200, 200, 400])


class BodyTests(SynchronousTestCase):
    """Bodies stay in memory and have limits."""

    def setUp(self) -> None:
        self.fixture = ServerFixture(Settings(max_body=1000))
        self.fixture.put("a")
        self.client = self.fixture.connect()

    def refused(self, status: int, kind: str) -> None:
        """Assert the response, and that the connection accepts nothing more."""
        (answer,) = self.client.answers()
        self.assertEqual((answer.status, problem(answer)), (status, kind))
        self.assertEqual(answer.header["connection"], "close")
        self.client.send(b"y" * 100_000)
        self.assertEqual(len(self.client.answers()), 1)
        self.assertFalse(self.client.transport.disconnected)
        self.fixture.clock.advance(limits.LINGER + 1)
        self.assertTrue(self.client.transport.disconnected)
        self.client.leave()
        self.assertEqual(self.fixture.site.bodies.held, 0)
        self.assertEqual(self.fixture.ask("GET", "a").body, b"")

    def test_refused_at_the_head(self) -> None:
        """A body is refused by its Content-Length, before it arrives."""
        self.client.send(f"{POST}Content-Length: 1001\r\n\r\n".encode())
        self.refused(413, "body-too-large")

    def test_refused_with_the_body(self) -> None:
        """A body that arrives with the head is refused by its Content-Length."""
        self.client.send(f"{POST}Content-Length: 1001\r\n\r\n".encode() + b"x" * 1001)
        self.refused(413, "body-too-large")

    def test_not_asked_for(self) -> None:
        """A body that is too large gets no 100 Continue."""
        self.client.send(f"{POST}Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n".encode())
        self.assertNotIn(b"100 Continue", self.client.transport.value())
        self.refused(413, "body-too-large")

    def test_asked_for(self) -> None:
        """An accepted body gets 100 Continue."""
        self.client.send(f"{POST}Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n".encode())
        self.assertEqual(self.client.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.client.send(b"x" * 1000)
        (answer,) = self.client.answers()
        self.assertEqual(answer.status, 204)

    def test_chunked(self) -> None:
        """A chunked body is refused at the limit."""
        self.client.send(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode())
        self.client.send(b"1f4\r\n" + b"x" * 500 + b"\r\n")
        self.assertEqual(self.client.answers(), [])
        self.assertEqual(self.fixture.site.bodies.held, 500)
        self.client.send(b"1f5\r\n" + b"x" * 501 + b"\r\n0\r\n\r\n")
        self.refused(413, "body-too-large")

    def test_chunked_within(self) -> None:
        """A chunked body is accepted."""
        self.client.send(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode())
        self.client.send(b"3\r\nabc\r\n3;ext=1\r\ndef\r\n0\r\nTrailer: x\r\n\r\n")
        (answer,) = self.client.answers()
        self.assertEqual(answer.status, 204)
        self.assertEqual(self.fixture.site.bodies.held, 0)
        self.assertEqual(self.fixture.ask("GET", "a").body, b"abcdef")

    def test_all_together(self) -> None:
        """The bodies of all requests share a limit."""
        self.fixture.site.bodies.limit = 1500
        other = self.fixture.connect()
        other.send(f"{POST}Content-Length: 1000\r\n\r\n".encode() + b"x" * 999)
        self.client.send(f"{POST}Content-Length: 1000\r\n\r\n".encode() + b"x" * 900)
        (answer,) = self.client.answers()
        self.assertEqual((answer.status, problem(answer)), (503, "overloaded"))
        self.assertEqual(answer.header["retry-after"], "1")
        self.client.leave()
        self.assertEqual(self.fixture.site.bodies.held, 999)
        other.send(b"x")
        self.assertEqual(other.answers()[0].status, 204)
        self.assertEqual(self.fixture.site.bodies.held, 0)

    def test_cors_of_a_refusal(self) -> None:
        """A page of an allowed origin may read the refusal."""
        fixture = ServerFixture(Settings(max_body=10, cors_origins=("https://app.example",)))
        client = fixture.connect()
        client.send(f"{POST}Origin: https://app.example\r\nContent-Length: 11\r\n\r\n".encode())
        (answer,) = client.answers()
        self.assertEqual(answer.header["access-control-allow-origin"], "https://app.example")
        self.assertEqual(answer.header["vary"], "Origin")

    def test_forms_are_bodies(self) -> None:
        """twisted.web does not parse form bodies."""
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            self.fixture.put("form", kind, b"a=b")
            self.fixture.post("form", b"not a form", kind)
            self.assertEqual(self.fixture.ask("GET", "form").body, b"a=bnot a form")
            self.fixture.ask("DELETE", "form")

    def test_in_a_foreign_site(self) -> None:
        """`StreamRequest` alone limits bodies on any site."""
        site = Site(
            self.fixture.streams.resource(),
            requestFactory=StreamRequest,
            reactor=self.fixture.clock,
        )
        client = Client(site)
        size = limits.MAX_BODY + 1
        client.send(f"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode())
        (answer,) = client.answers()
        self.assertEqual(answer.status, 413)
        client.leave()
        self.assertEqual(Client(site).ask("HEAD", "/a").status, 200)


class Failing(Resource):
    """Resource that raises, before or after its first byte."""

    isLeaf = True

    def render(self, request: Request) -> int:
        """Raise."""
        if request.path == b"/late":
            request.write(b"begun")
        raise RuntimeError("a secret")


class Waiting(Resource):
    """Resource that never responds."""

    isLeaf = True

    def render(self, request: Request) -> int:
        """Do not respond."""
        return NOT_DONE_YET


class OtherResourceTests(SynchronousTestCase):
    """Other resources of a site."""

    def site(self, resource: Resource) -> StreamSite:
        """Return a `StreamSite` of another resource."""
        fixture = ServerFixture()
        return StreamSite(
            resource,
            fixture.streams.stream_handler,
            ResponseHeaders(),
            Settings(),
            fixture.clock,
            b"/s/",
        )

    def test_bug(self) -> None:
        """An internal error gets 500 with an id that is also in the log."""
        client = Client(self.site(Failing()))
        answer = client.ask("GET", "/early")
        self.assertEqual((answer.status, problem(answer)), (500, "internal"))
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_bug_midway(self) -> None:
        """A response that cannot be completed resets the connection."""
        client = Client(self.site(Failing()))
        client.request("GET", "/late")
        (answer,) = client.answers()
        self.assertFalse(answer.complete)
        self.assertTrue(client.transport.disconnecting or client.transport.disconnected)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class DrainTests(SynchronousTestCase):
    """Draining."""

    def setUp(self) -> None:
        self.clock = ServerFixture().clock
        self.site = StreamSite(
            Waiting(),
            ServerFixture().streams.stream_handler,
            ResponseHeaders(),
            Settings(),
            self.clock,
            b"/s/",
        )

    def test_no_connections(self) -> None:
        """Draining without connections ends at once."""
        self.successResultOf(self.site.drain())

    def test_idle(self) -> None:
        """An idle connection is closed."""
        client = Client(self.site)
        drained = self.site.drain()
        self.assertTrue(client.transport.disconnecting)
        self.assertNoResult(drained)
        client.leave()
        self.clock.advance(limits.STOP_CHECK)
        self.successResultOf(drained)

    def test_busy(self) -> None:
        """A busy connection is reset after `STOP_GRACE`."""
        client = Client(self.site)
        client.request("GET", "/")
        drained = self.site.drain()
        self.clock.pump([limits.STOP_CHECK] * 10)
        self.assertFalse(client.transport.disconnecting)
        self.clock.advance(limits.STOP_GRACE)
        self.assertTrue(client.transport.disconnected)
        self.successResultOf(drained)

    def test_response_while_draining(self) -> None:
        """A connection is closed after its response."""
        fixture = ServerFixture()
        fixture.put("a")
        client = fixture.connect()
        client.request("GET", f"{ROOT}a?offset=now&live=long-poll")
        drained = fixture.site.drain()
        self.assertFalse(client.transport.disconnecting)
        fixture.streams.release()
        fixture.clock.advance(limits.STOP_CHECK)
        self.assertEqual(client.answers()[0].status, 204)
        self.assertTrue(client.transport.disconnecting)
        client.leave()
        fixture.clock.advance(limits.STOP_CHECK)
        self.successResultOf(drained)


class RoomTests(SynchronousTestCase):
    """Limits on connections."""

    def test_rejected(self) -> None:
        """The total is limited; a closed connection makes room for another."""
        fixture = ServerFixture(Settings(max_connections=2))
        clients = [fixture.connect() for _ in range(3)]
        gone = [client.transport.disconnected for client in clients]
        self.assertEqual(gone, [False, False, True])
        clients[0].leave()
        self.assertFalse(fixture.connect().transport.disconnected)

    def test_each_address(self) -> None:
        """The connections of one address are limited."""
        fixture = ServerFixture(Settings(max_connections_per_address=1))
        client, other = fixture.connect(), fixture.connect()
        self.assertTrue(other.transport.disconnected)
        client.leave()
        self.assertFalse(fixture.connect().transport.disconnected)

    def test_configured_head_timeout(self) -> None:
        """The head timeout is configurable."""
        fixture = ServerFixture(Settings(head_timeout=2))
        client = fixture.connect()
        client.send(b"G")
        fixture.clock.advance(3)
        self.assertEqual(client.answers()[0].status, 408)
