"""Tests of responses to the head of a request, and of pausing bodies, on both HTTP/1.1 servers."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from durable_streams_tw.auth.identities import Identity, Rejected
from durable_streams_tw.auth.rate_limits import Rate
from durable_streams_tw.http import limits
from durable_streams_tw.http.settings import Settings
from tests.http.authorization_case import AuthorizationCase, both_servers, granting
from tests.http.server_fixture import ROOT, Client

_BODY = b"x" * 100_000


class EarlyResponses(AuthorizationCase):
    """Clients that send a head and wait, or continue with their body."""

    def setUp(self) -> None:
        AuthorizationCase.setUp(self)
        self.put("a")

    def head(
        self, *lines: str, method: str = "POST", path: str = "a", size: int = len(_BODY)
    ) -> Client:
        """Send a head without its body."""
        client = self.connect()
        client.send(
            "\r\n".join(
                (
                    f"{method} {ROOT}{path} HTTP/1.1",
                    "Host: h",
                    "Content-Type: text/plain",
                    f"Content-Length: {size}",
                    *lines,
                    "",
                    "",
                )
            ).encode("ascii")
        )
        return client

    def held(self) -> int:
        """Bytes counted for bodies."""
        site: Any = self.site
        held: int = site.bodies.held
        return held

    def assert_refused(self, client: Client, status: int) -> None:
        """Assert that the response is there and that further bytes are discarded."""
        self.assertNotIn(b"100 Continue", client.transport.value())
        (answer,) = client.answers()
        self.assertEqual(
            (answer.status, answer.header["connection"], answer.complete), (status, "close", True)
        )
        client.send(_BODY)
        self.assertEqual(len(client.answers()), 1)
        self.assertEqual(self.held(), 0)

    def test_without_a_token(self) -> None:
        """An unauthenticated client is refused before it sends its body."""
        for lines in ((), ("Expect: 100-continue",), ("Authorization: Bearer nobody",)):
            self.assert_refused(self.head(*lines), 401)
        client = self.connect()
        client.send(
            f"POST {ROOT}a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        self.assert_refused(client, 401)

    def test_not_read(self) -> None:
        """A refused upload is not read to its end."""
        if self.fast:
            # This needs a real transport: see test_socket_writer.
            return
        client = self.head(size=limits.MAX_BODY)
        for _ in range(limits.LINGER_BYTES // len(_BODY)):
            client.send(_BODY)
        self.assertEqual(client.transport.producerState, "producing")
        client.send(_BODY)
        self.assertEqual(client.transport.producerState, "paused")

    def test_not_granted(self) -> None:
        """A client without the grant, or for a missing stream, is refused before its body."""
        self.give("reader", ("", "read"))
        wait = "Expect: 100-continue"
        self.assert_refused(self.head("Authorization: Bearer reader", wait), 403)
        self.assert_refused(self.head("Authorization: Bearer root", wait, method="PATCH"), 405)
        path = "%5F%5Fds%2Fx"
        self.assert_refused(self.head("Authorization: Bearer root", wait, path=path), 404)

    def test_control(self) -> None:
        """Subscriptions require a token before the body too."""
        path = "__ds/subscriptions/s"
        self.assert_refused(self.head("Expect: 100-continue", path=path, method="PUT"), 401)
        client = self.head("Authorization: Bearer root", path=path, method="PUT", size=2)
        client.send(b"{}")
        self.assertEqual([answer.status for answer in client.answers()], [400])

    def test_admitted(self) -> None:
        """An authorized client gets 100 Continue once."""
        client = self.head("Authorization: Bearer root", "Expect: 100-continue")
        self.assertEqual(client.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(_BODY[:1])
        client.send(_BODY[1:])
        self.assertEqual([answer.status for answer in client.answers()], [204])
        self.assertEqual(self.held(), 0)
        client.transport.clear()
        client.request("POST", ROOT + "a", {"Content-Type": "text/plain"}, b"x")
        self.assertEqual([answer.status for answer in client.answers()], [401])

    def test_later(self) -> None:
        """While a token is verified the body is not requested and nothing is executed."""
        good = Identity("late", granting(("", "append")), None)
        found: Deferred[Any]
        for result, status in ((good, 204), (Rejected("no"), 401)):
            for sent in (b"", _BODY[:9], _BODY):
                found = self.tokens.later["late"] = Deferred()
                client = self.head("Authorization: Bearer late", "Expect: 100-continue")
                client.send(sent)
                self.assertEqual(client.transport.value(), b"")
                if isinstance(result, Exception):
                    found.errback(result)
                    self.assert_refused(client, 401)
                else:
                    found.callback(result)
                    asked = b"100 Continue" in client.transport.value()
                    self.assertEqual(asked, not sent)
                    client.send(_BODY[len(sent) :])
                    self.assertEqual([one.status for one in client.answers()], [status])
                client.leave()
                self.assertEqual(self.held(), 0)

    def test_disconnect_during_the_check(self) -> None:
        """A client may disconnect while its token is verified."""
        found: Deferred[Any] = Deferred()
        self.tokens.later["late"] = found
        client = self.head("Authorization: Bearer late")
        client.send(_BODY)
        client.leave()
        self.assertEqual(self.held(), 0)
        self.assertEqual(self.ask("GET", "a", "root").body, b"")


class RequestCounts(AuthorizationCase):
    """Rate limits and bodies in pieces."""

    settings = Settings(rate=Rate(3, 3))

    def test_once(self) -> None:
        """A request counts once, in any pieces."""
        self.put("a")
        head = (
            f"POST {ROOT}a HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer root\r\n"
            "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n"
        )
        statuses = []
        for _ in range(3):
            client = self.connect()
            client.send(head.encode())
            client.send(b"x")
            client.send(b"y")
            statuses += [answer.status for answer in client.answers()]
        self.assertEqual(statuses, [204, 204, 429])


class PausedBodies(AuthorizationCase):
    """Pausing bodies, without authentication."""

    asks = False

    def begin(self) -> Client:
        """Send the start of a chunked body."""
        self.put("a")
        client = self.connect()
        client.send(
            f"POST {ROOT}a HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n"
            "Transfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n".encode()
        )
        return client

    def pass_by(self, seconds: float) -> None:
        """Advance the clock."""
        self.clock.pump([1.0] * int(seconds))

    def test_paused(self) -> None:
        """A body may pause several times for longer than the idle timeout."""
        client = self.begin()
        for _ in range(3):
            self.pass_by(limits.BODY_TIMEOUT - 2)
            client.send(b"2\r\nb\n\r\n")
        client.send(b"0\r\n\r\n")
        self.assertEqual([answer.status for answer in client.answers()], [204])
        self.assertEqual(self.ask("GET", "a").body, b"a\nb\nb\nb\n")

    def test_for_too_long(self) -> None:
        """A body may not pause for longer than its timeout."""
        client = self.begin()
        self.pass_by(limits.BODY_TIMEOUT + 2)
        (answer,) = client.answers()
        self.assertEqual((answer.status, answer.header["connection"]), (408, "close"))
        client.leave()
        self.assertEqual(self.ask("GET", "a").body, b"")


FastEarlyResponses, WebEarlyResponses = both_servers(EarlyResponses)
FastRequestCounts, WebRequestCounts = both_servers(RequestCounts)
FastPausedBodies, WebPausedBodies = both_servers(PausedBodies)
del EarlyResponses, RequestCounts, PausedBodies
