"""Tests of `durable_streams_tw.http.operators.resources`, with both HTTP servers."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.operators.resources import OperatorTree, page, read_only
from durable_streams_tw.http.twisted_web.resource import send
from durable_streams_tw.telemetry.health import Live
from tests.http.server_fixture import MORNING, Answer, Client, at_once


class _Told(Resource):
    """Resource that responds with the path after its name."""

    isLeaf = True

    def render(self, request: Request) -> Any:
        """Send the path."""
        if request.method not in (b"GET", b"HEAD"):
            return send(read_only(), request)
        body = b"/".join(request.postpath or [])
        return send(page(200, b"text/plain", body, (b"Cache-Control", b"max-age=1")), request)


class OperatorTreeTests(SynchronousTestCase):
    """Requests to the operator resources."""

    def setUp(self) -> None:
        clock = Clock()
        clock.advance(MORNING)
        self.streams = DurableStreams(reactor=clock, in_thread=at_once)
        self.streams.startService()
        self.addCleanup(self.streams.stopService)
        tree = OperatorTree()
        tree.putChild(b"told", _Told())
        self.tree = tree

    def servers(self, root: bytes) -> list[Any]:
        """Return a client of each HTTP server."""
        return [self.streams.site(root, self.tree), self.streams.http_factory(root, self.tree)]

    def ask(self, site: Site, method: str, target: str, body: bytes | None = None) -> Answer:
        """Send one request on a new connection."""
        client = Client(site)
        header = {"Origin": "https://app.example", "Content-Type": "text/plain"}
        answer = client.ask(method, target, header, body)
        client.leave()
        return answer

    def test_found(self) -> None:
        """A resource of the tree is found whatever the root of the streams is."""
        for root in (b"v1/stream/", b"", b"-x/"):
            for site in self.servers(root):
                answer = self.ask(site, "GET", "/-/told/a/b?c")
                self.assertEqual((answer.status, answer.body), (200, b"a/b"))
                self.assertEqual(self.ask(site, "HEAD", "/-/told").status, 200)
                self.assertEqual(self.ask(site, "POST", "/-/told", b"x").status, 405)

    def test_closed_to_other_sites(self) -> None:
        """Responses have no CORS headers and are not cached."""
        for site in self.servers(b"v1/stream/"):
            for target in ("/-/told", "/-/else", "/-/"):
                header = self.ask(site, "GET", target).header
                self.assertNotIn("access-control-allow-origin", header)
                self.assertEqual(header["x-content-type-options"], "nosniff")
                self.assertEqual(header["cross-origin-resource-policy"], "same-origin")
                kept = "max-age=1" if target == "/-/told" else "no-store"
                self.assertEqual(header["cache-control"], kept)

    def test_nothing_there(self) -> None:
        """A missing resource is a problem response."""
        for site in self.servers(b""):
            for target in ("/-/", "/-/else", "/-/else/more"):
                for method in ("GET", "PUT"):
                    answer = self.ask(site, method, target)
                    self.assertEqual(answer.status, 404)
                    self.assertEqual(answer.header["content-type"], "application/problem+json")

    def test_index(self) -> None:
        """`/` names the resources, or redirects to the console; streams at the root replace it."""
        for site in self.servers(b"v1/stream/"):
            answer = self.ask(site, "GET", "/?x")
            self.assertEqual(answer.status, 200)
            self.assertEqual(
                answer.body, b"Durable Streams server\n\n/v1/stream/  streams\n/-/told\n"
            )
            self.assertEqual(self.ask(site, "POST", "/", b"x").status, 405)
        self.tree.putChild(b"console", Live())
        for site in self.servers(b"v1/stream/"):
            answer = self.ask(site, "GET", "/")
            self.assertEqual((answer.status, answer.header["location"]), (303, "/-/console"))
        for site in self.servers(b""):
            self.assertEqual(self.ask(site, "GET", "/").status, 400)

    def test_other_paths(self) -> None:
        """All other targets reach the streams unchanged."""
        for site in self.servers(b""):
            for target in ("/-", "/-x", "/a/-/told", "/%2D/told", "/a%2Fb"):
                self.assertEqual(self.ask(site, "PUT", target, b"x").status // 100, 2, target)
                self.assertEqual(self.ask(site, "GET", target).body, b"x")
                self.assertEqual(self.ask(site, "DELETE", target).status, 204)
            self.assertEqual(self.ask(site, "GET", "//told").status, 400)

    def test_absent(self) -> None:
        """Without a tree, paths below ``/-/`` belong to streams."""
        for site in (self.streams.site(b""), self.streams.http_factory(b"")):
            client = Client(site)  # type: ignore[arg-type]
            self.addCleanup(client.leave)
            self.assertIn(client.ask("PUT", "/-/told", {}, b"").status, (200, 201))
