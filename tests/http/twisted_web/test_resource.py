"""Tests of `durable_streams_tw.http.twisted_web.resource`: raw paths, mounts, internal errors."""

from __future__ import annotations

import json

from klein import Klein
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from durable_streams_tw.http.settings import Settings
from tests.http.server_fixture import ROOT, Client, ServerFixture

TEXT = {"Content-Type": "text/plain"}


class RawPathTests(SynchronousTestCase):
    """Names are those of the raw target, percent-decoded once."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()

    def test_encoded_slash(self) -> None:
        """``a%2Fb`` is decoded once, to the same name as ``a/b``."""
        self.fixture.put("a%2Fb", body=b"x")
        self.assertEqual(self.fixture.ask("GET", "a/b").body, b"x")

    def test_encoded_percent(self) -> None:
        """A percent sign of a name is not decoded twice."""
        self.fixture.put("a%252Fb", body=b"x")
        self.assertEqual(self.fixture.ask("GET", "a/b").status, 404)
        self.assertEqual(self.fixture.ask("GET", "a%252Fb").body, b"x")

    def test_double_slash(self) -> None:
        """``//`` is refused, never redirected."""
        for path in ("a//b", "/a", "a/", "a//"):
            answer = self.fixture.ask("PUT", path, TEXT)
            self.assertEqual((path, answer.status), (path, 400))
            self.assertEqual(json.loads(answer.body)["type"].rpartition(":")[2], "malformed-path")

    def test_dots(self) -> None:
        """Dot segments do not leave the root."""
        for path in ("..", "a/../b", "%2e%2e/a", "a/%2E%2E", ".", "a/%2e/b"):
            self.assertEqual((path, self.fixture.ask("PUT", path, TEXT).status), (path, 400))

    def test_unicode(self) -> None:
        """A name may be any UTF-8 text."""
        self.fixture.put("caf%C3%A9/%E6%97%A5", body=b"x")
        info = self.successResultOf(self.fixture.streams.head("café/日"))
        self.assertEqual(info.path, "café/日")

    def test_not_unicode(self) -> None:
        """Bytes that are not UTF-8 are refused, and nothing is logged."""
        self.assertEqual(self.fixture.ask("PUT", "caf%E9", TEXT).status, 400)
        self.assertEqual(self.fixture.ask("PUT", "%FF%FE", TEXT).status, 400)

    def test_colon_and_reserved_characters(self) -> None:
        """Names with characters that routers treat specially."""
        for path in ("a:b", "a;b=c", "a=b", "@", "<int:x>", "a+b", "*", "%3Cpath:x%3E", "a%20b"):
            self.fixture.put(path, body=path.encode())
            self.assertEqual(self.fixture.ask("GET", path).body, path.encode())

    def test_query_is_no_part_of_the_name(self) -> None:
        """A question mark ends the path."""
        self.fixture.put("a?b=c")
        self.assertEqual(self.fixture.ask("HEAD", "a").status, 200)

    def test_reserved(self) -> None:
        """Names below ``__ds`` are no streams."""
        for path in ("__ds", "__ds/x", "%5F_ds/x", "__ds%2Fsubscriptions%2Fx", "_%5Fd%73%2fx"):
            self.assertEqual((path, self.fixture.ask("PUT", path, TEXT).status), (path, 404))
        self.fixture.put("__dsx")
        self.fixture.put("a/__ds")

    def test_outside(self) -> None:
        """Paths outside the streams are 404 with problem details."""
        client = self.fixture.connect()
        for target in ("/", "/v1", "/v1/stream", "/v1/streams/a", "/v1//stream/a", "/V1/stream/a"):
            answer = client.ask("GET", target)
            self.assertEqual((target, answer.status), (target, 404))
            self.assertEqual(answer.header["content-type"], "application/problem+json")
            self.assertIn(f"the streams are below {ROOT}", json.loads(answer.body)["detail"])
            self.assertEqual(answer.header["access-control-allow-origin"], "*")
            self.assertEqual(answer.header["x-content-type-options"], "nosniff")

    def test_no_name(self) -> None:
        """The root itself is no stream."""
        self.assertEqual(self.fixture.ask("PUT", "", TEXT).status, 400)

    def test_absolute_form(self) -> None:
        """A target in absolute form is the same target (RFC 9112 §3.2.2)."""
        client = self.fixture.connect()
        answer = client.ask("PUT", f"http://streams.example{ROOT}a", TEXT)
        self.assertEqual(answer.status, 201)
        self.assertEqual(answer.header["location"], f"http://streams.example{ROOT}a")
        answer = client.ask("PUT", f"http://other.example:80{ROOT}b", TEXT)
        self.assertEqual(answer.header["location"], f"http://other.example:80{ROOT}b")


class LocationTests(SynchronousTestCase):
    """Location is the URL that the client used."""

    def location(self, settings: Settings | None = None, **header: str) -> str:
        """Create a stream and return its Location; hyphens of header names are omitted."""
        sent = {name.replace("_", "-"): value for name, value in header.items()}
        answer = ServerFixture(settings).ask("PUT", "a%2Fb?x=y", TEXT | sent)
        return answer.header["location"]

    def test_from_host(self) -> None:
        """Location has host and raw path, without the query."""
        self.assertEqual(self.location(), "http://streams.example/v1/stream/a%2Fb")

    def test_proxy_is_not_believed(self) -> None:
        """Forwarded headers are ignored by default."""
        location = self.location(X_Forwarded_Proto="https", X_Forwarded_Host="evil.example")
        self.assertEqual(location, "http://streams.example/v1/stream/a%2Fb")

    def test_trusted_proxy(self) -> None:
        """With ``trust_proxy`` forwarded headers set scheme and host."""
        location = self.location(
            Settings(trust_proxy=True),
            X_Forwarded_Proto="https, http",
            X_Forwarded_Host="public.example:8443, inner",
        )
        self.assertEqual(location, "https://public.example:8443/v1/stream/a%2Fb")

    def test_malformed_proxy_fields(self) -> None:
        """Malformed forwarded headers are ignored."""
        location = self.location(
            Settings(trust_proxy=True), X_Forwarded_Proto="ftp", X_Forwarded_Host="a b/c"
        )
        self.assertEqual(location, "http://streams.example/v1/stream/a%2Fb")

    def test_without_host(self) -> None:
        """HTTP/1.0 without Host gets the local address."""
        client = ServerFixture().connect()
        client.send(b"PUT /v1/stream/a HTTP/1.0\r\nContent-Type: text/plain\r\n\r\n")
        (answer,) = client.answers()
        self.assertEqual(answer.header["location"], "http://10.0.0.1:12345/v1/stream/a")


class MountTests(SynchronousTestCase):
    """The resource can be mounted anywhere, on any site."""

    def setUp(self) -> None:
        fixture = ServerFixture()
        self.clock, self.streams = fixture.clock, fixture.streams

    def check(self, site: Site, prefix: str) -> None:
        """Assert that streams work below the prefix, raw names too."""
        client = Client(site)
        for path in ("a", "a/b/c", "x%2Fy", "100%25"):
            answer = client.ask("PUT", f"{prefix}{path}", TEXT, path.encode())
            self.assertEqual((path, answer.status), (path, 201))
            self.assertEqual(answer.header["location"], f"http://streams.example{prefix}{path}")
            self.assertEqual(client.ask("GET", f"{prefix}{path}").body, path.encode())
        self.assertEqual(client.ask("PUT", f"{prefix}a/../b", TEXT).status, 400)
        self.assertEqual(self.successResultOf(self.streams.read("x/y")).data, b"x%2Fy")
        fork = client.ask("PUT", f"{prefix}fork", {"Stream-Forked-From": f"{prefix}a/b/c"})
        self.assertEqual(fork.status, 201)
        self.assertEqual(client.ask("GET", f"{prefix}fork").body, b"a/b/c")

    def site(self, resource: IResource) -> Site:
        """Return a plain twisted.web site."""
        return Site(resource, reactor=self.clock)

    def test_fields_given_twice(self) -> None:
        """On a plain site too, a single-valued header must not be sent twice."""
        client = Client(self.site(self.streams.resource()))
        client.ask("PUT", "/a", TEXT)
        client.transport.clear()
        fields = b"Content-Type: text/plain\r\nStream-Seq: 1\r\nStream-Seq: 2\r\nContent-Length: 1"
        client.send(b"POST /a HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n\r\nx")
        (answer,) = client.answers()
        self.assertEqual(answer.status, 400)
        self.assertIn(b"Stream-Seq was sent twice", answer.body)

    def test_as_the_whole_site(self) -> None:
        """A resource as the root of a site works."""
        self.check(self.site(self.streams.resource()), "/")

    def test_as_a_child(self) -> None:
        """A resource below another resource works."""
        root = Resource()
        root.putChild(b"streams", self.streams.resource())
        self.check(self.site(root), "/streams/")

    def test_deep(self) -> None:
        """A resource several levels deep works, with a root of its own."""
        root, child = Resource(), Resource()
        root.putChild(b"api", child)
        child.putChild(b"v 2", self.streams.resource(b"streams/all/"))
        self.check(self.site(root), "/api/v%202/streams/all/")

    def test_in_a_klein_app(self) -> None:
        """A resource mounted in another Klein app works."""
        app = Klein()

        @app.route("/hello")
        def hello(request: Request) -> bytes:
            return b"hello"

        resource = self.streams.resource()

        @app.route("/my/streams/", branch=True)
        def streams(request: Request) -> IResource:
            return resource

        site = self.site(app.resource())
        self.check(site, "/my/streams/")
        self.assertEqual(Client(site).ask("GET", "/hello").body, b"hello")

    def test_body_limit_in_a_foreign_site(self) -> None:
        """On a site without a limit for bodies, the limit of the settings applies."""
        streams = ServerFixture(Settings(max_body=10)).streams
        client = Client(self.site(streams.resource()))
        self.assertEqual(client.ask("PUT", "/a", TEXT, b"x" * 10).status, 201)
        answer = client.ask("POST", "/a", TEXT, b"x" * 11)
        self.assertEqual(answer.status, 413)
        self.assertEqual(client.ask("GET", "/a").body, b"x" * 10)


class BugTests(SynchronousTestCase):
    """Internal errors."""

    def test_bug(self) -> None:
        """500 with problem details and an id under which the log has the error."""
        fixture = ServerFixture()

        def respond(request: object) -> None:
            raise RuntimeError("a secret")

        self.patch(fixture.streams.stream_handler, "respond", respond)
        answer = fixture.ask("GET", "a", {"Origin": "https://app.example"})
        self.assertEqual(answer.status, 500)
        self.assertEqual(answer.header["content-type"], "application/problem+json")
        self.assertEqual(answer.header["access-control-allow-origin"], "*")
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
