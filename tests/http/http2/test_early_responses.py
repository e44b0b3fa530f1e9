"""HTTP/2 requests that are authorized by their heads."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from durable_streams_tw.auth.identities import Identity, Rejected
from tests.http.authorization_case import FakeTokenChecker, granting
from tests.http.http2.client import Http2TestCase, ReceivedResponse
from tests.http.server_fixture import ServerFixture


class EarlyTests(Http2TestCase):
    """Clients that send a head and wait, or continue with their body."""

    def setUp(self) -> None:
        self.tokens = FakeTokenChecker()
        self.tokens.known["root"] = Identity("root", granting(("", "read append create")), None)
        self.tokens.known["reader"] = Identity("reader", granting(("", "read")), None)
        self.begin(ServerFixture(checkers=(self.tokens,)))
        self.assertEqual(
            self.ask("PUT", "a", content_type="text/plain", authorization="Bearer root").status,
            201,
        )

    def start(self, method: str, target: str, token: str, **header: str) -> int:
        """Send the head of a request; return its stream."""
        number: int = self.wire.get_next_available_stream_id()
        self.got[number] = ReceivedResponse()
        authorization = f"Bearer {token}"
        self.wire.send_headers(
            number,
            self.head(
                method, target, content_type="text/plain", authorization=authorization, **header
            ),
        )
        self.flush()
        return number

    def test_refused(self) -> None:
        """A client without the grant is refused before its body."""
        for method, target, token, status in (
            ("POST", "a", "nobody", 401),
            ("POST", "a", "reader", 403),
            ("PATCH", "a", "root", 405),
            ("POST", "%5F%5Fds%2Fx", "root", 404),
        ):
            for header in ({}, {"expect": "100-continue"}):
                got = self.got[self.start(method, target, token, **header)]
                self.assertEqual((got.status, got.ended, got.informed), (status, True, 0))
                self.assertEqual((got.reset, got.code), (True, 0))
        self.assertEqual(self.connection.streams, {})

    def test_admitted(self) -> None:
        """An authorized client continues."""
        number = self.start("POST", "a", "root", expect="100-continue")
        self.assertEqual(self.got[number].informed, 100)
        self.wire.send_data(number, b"x", end_stream=True)
        self.flush()
        self.assertEqual(self.got[number].status, 204)

    def test_later(self) -> None:
        """While a token is verified the body is not requested and nothing is executed."""
        good = Identity("late", granting(("", "append")), None)
        for result, status in ((good, 204), (Rejected("no"), 401)):
            for sent in ("", "some", "all"):
                found: Deferred[Any] = Deferred()
                self.tokens.later["late"] = found
                number = self.start("POST", "a", "late", expect="100-continue")
                got = self.got[number]
                if sent:
                    self.wire.send_data(number, b"x", end_stream=sent == "all")
                    self.flush()
                self.assertEqual((got.informed, got.header), (0, {}))
                if isinstance(result, Exception):
                    found.errback(result)
                else:
                    found.callback(result)
                self.flush()
                self.assertEqual(got.informed, 100 if status == 204 and not sent else 0)
                if status == 204 and sent != "all":
                    self.wire.send_data(number, b"y", end_stream=True)
                    self.flush()
                self.assertEqual((got.status, got.ended), (status, True))

    def test_body_while_deciding(self) -> None:
        """A client has one window until it is authenticated."""
        found: Deferred[Any] = Deferred()
        self.tokens.later["late"] = found
        number = self.start("POST", "a", "late")
        sent = 0
        while room := min(self.wire.local_flow_control_window(number), 16_384):
            self.wire.send_data(number, bytes(room))
            self.flush()
            sent += room
        self.assertEqual(sent, 2**20)
        found.callback(self.tokens.known["root"])
        self.flush()
        self.wire.send_data(number, b"x", end_stream=True)
        self.flush()
        self.assertEqual(self.got[number].status, 204)

    def test_gone_meanwhile(self) -> None:
        """A client may disconnect while its token is verified."""
        cancelled: list[object] = []
        self.tokens.later["late"] = Deferred(cancelled.append)
        number = self.start("POST", "a", "late")
        self.wire.reset_stream(number)
        self.flush()
        self.assertEqual(len(cancelled), 1)
        self.tokens.later["late"] = succeed(self.tokens.known["root"])
        self.assertEqual(self.ask("GET", "a", authorization="Bearer root").body, b"")
