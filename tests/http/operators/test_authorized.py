"""Tests of `durable_streams_tw.http.operators.authorized`, with both HTTP servers."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.resource import Resource

from durable_streams_tw.auth.identities import CheckerUnavailable, Identity
from durable_streams_tw.auth.rate_limits import Rate
from durable_streams_tw.http.operators.resources import OperatorTree
from durable_streams_tw.http.settings import Settings
from tests.http.authorization_case import AuthorizationCase, both_servers, granting
from tests.http.server_fixture import Answer


class Shown(Resource):
    """Resource that responds with its name."""

    isLeaf = True

    def __init__(self, name: bytes) -> None:
        Resource.__init__(self)
        self.name = name

    def render_GET(self, request: Any) -> bytes:
        """Send the name."""
        return self.name


class OperatorsCase(AuthorizationCase):
    """Test case with an operator tree."""

    def setUp(self) -> None:
        AuthorizationCase.setUp(self)
        tree = OperatorTree()
        for name in (b"live", b"ready", b"metrics", b"streams", b"console", b"other"):
            tree.putChild(name, Shown(name))
        for name in (b"bytes", b"changes", b"subscriptions"):
            tree.putChild(name, Shown(name))
        self.site = (self.streams.http_factory if self.fast else self.streams.site)(operators=tree)

    def request(self, target: str, token: str | None = None, **fields: str) -> Answer:
        """Send one request."""
        client = self.connect()
        answer = client.ask("GET", target, self.header(token, fields))
        client.leave()
        return answer


class Operators(OperatorsCase):
    """Operator resources with tokens."""

    def test_probes(self) -> None:
        """Probes need no token."""
        for name in ("live", "ready"):
            self.assertEqual(self.request(f"/-/{name}").body, name.encode())

    def test_the_console_is_a_page(self) -> None:
        """The console page needs no token."""
        self.assertEqual(self.request("/-/console").body, b"console")

    def test_without(self) -> None:
        """Every other path needs a token, missing ones included."""
        for target in (
            "/-/metrics",
            "/-/m%65trics",
            "/-/streams",
            "/-/streams/",
            "/-/streams?prefix=a",
            "/-/other",
            "/-/nowhere",
            "/-/",
            "/-//metrics",
            "/-//live",
            "/-/live%2F..%2Fmetrics",
            "/-/%6Cive/../metrics",
        ):
            answer = self.request(target)
            if target.startswith("/-/%6Cive"):
                # A leaf: paths below it are missing.
                self.assertEqual(answer.body, b"live")
                continue
            self.assertEqual(answer.status, 401, target)
            self.assertNotIn(b"metrics", answer.body)
            self.assertIn("www-authenticate", answer.header)
            self.assertEqual(answer.header["cache-control"], "no-store")

    def test_metrics(self) -> None:
        self.give("some", ("jobs", "metrics read list"))
        self.give("all", ("", "metrics"))
        self.give("reader", ("", "read append create delete subscribe list"))
        self.assertEqual(self.request("/-/metrics", "all").body, b"metrics")
        for token in ("some", "reader"):
            self.assertEqual(self.request("/-/metrics", token).status, 403)
            self.assertEqual(self.request("/-/other", token).status, 403)

    def test_listing(self) -> None:
        """The listing needs the grant for its prefix, however it is encoded."""
        self.give("t", ("jobs", "list"))
        for query, allowed in (
            ("?prefix=jobs/", True),
            ("?prefix=jobs/a", True),
            ("?prefix=jobs%2F", True),
            ("?prefix=j%6Fbs/&after=x", True),
            ("", False),
            ("?prefix=", False),
            ("?prefix=jobs", False),
            ("?prefix=jobs2/", False),
            ("?prefix=secret/", False),
            ("?prefix=jobs/&prefix=secret/", False),
            ("?prefix=secret/&prefix=jobs/", False),
            ("?Prefix=jobs/", False),
            ("?after=jobs/", False),
            ("?prefix=jobs/;prefix=secret", True),
            ("?prefix=%FF", False),
        ):
            status = self.request(f"/-/streams{query}", "t").status
            self.assertEqual(status, 200 if allowed else 403, query)
        self.assertEqual(self.request("/-/streams?prefix=secret/", "root").status, 200)

    def test_bytes_and_changes(self) -> None:
        """Bytes and changes need the grant read on each stream that the query names."""
        self.give("t", ("jobs", "read"))
        for query, allowed in (
            ("?stream=jobs/a", True),
            ("?stream=jobs%2Fa&stream=jobs", True),
            ("?stream=jobs/a&stream=secret", False),
            ("?stream=jobs2", False),
            ("?Stream=jobs", False),
            ("?stream=", False),
            ("", False),
            ("?stream=jobs&x=%FF", False),
        ):
            for name in ("bytes", "changes"):
                status = self.request(f"/-/{name}{query}", "t").status
                self.assertEqual(status, 200 if allowed else 403, query)

    def test_subscriptions(self) -> None:
        """The list of subscriptions needs the grant subscribe on all streams."""
        self.give("some", ("jobs", "subscribe"))
        self.give("reader", ("", "read list metrics"))
        self.give("all", ("", "subscribe"))
        self.assertEqual(self.request("/-/subscriptions", "all").body, b"subscriptions")
        for token in ("some", "reader"):
            self.assertEqual(self.request("/-/subscriptions", token).status, 403)

    def test_checkers_that_take_their_time(self) -> None:
        """A checker may be asynchronous, and a client may leave meanwhile."""
        answer: Deferred[object] = Deferred()
        self.tokens.later["slow"] = answer
        client = self.connect()
        client.request("GET", "/-/metrics", {"Authorization": "Bearer slow"})
        self.assertEqual(client.answers(), [])
        answer.callback(Identity("slow", granting(("", "metrics"))))
        self.assertEqual(client.answers()[0].body, b"metrics")
        answer = Deferred()
        self.tokens.later["slow"] = answer
        client = self.connect()
        client.request("GET", "/-/metrics", {"Authorization": "Bearer slow"})
        client.leave()
        answer.callback(Identity("slow", granting(("", "metrics"))))
        self.assertEqual(client.answers(), [])

    def test_checkers_that_fail(self) -> None:
        """A failing checker shows nothing."""
        self.tokens.known["down"] = CheckerUnavailable("the issuer does not answer")
        self.assertEqual(self.request("/-/metrics", "down").status, 503)
        self.tokens.known["bug"] = ZeroDivisionError()
        self.assertEqual(self.request("/-/metrics", "bug").status, 500)
        self.flushLoggedErrors(ZeroDivisionError)


class LocalOperators(OperatorsCase):
    """Without tokens, and with one allowed host."""

    asks = False
    settings = Settings(allowed_hosts=("local",), rate=Rate(3, 1.0))

    def test_rebound(self) -> None:
        """Probes are answered for every Host, the other resources are not."""
        for name in ("metrics", "streams", "console", "other", ""):
            answer = self.request(f"/-/{name}")
            self.assertEqual(answer.status, 403)
            self.assertIn(b"host-not-allowed", answer.body)
        self.assertEqual(self.request("/-/live").status, 200)


class OpenOperators(OperatorsCase):
    """Operator resources without authentication."""

    asks = False

    def test_open(self) -> None:
        self.assertEqual(self.request("/-/metrics").body, b"metrics")


FastOperators, WebOperators = both_servers(Operators)
FastLocalOperators, WebLocalOperators = both_servers(LocalOperators)
FastOpenOperators, WebOpenOperators = both_servers(OpenOperators)
del Operators, LocalOperators, OpenOperators
