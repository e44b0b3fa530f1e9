"""Tests of allowed origins, allowed hosts and rate limits, with both HTTP servers."""

from __future__ import annotations

from durable_streams_tw.auth.rate_limits import Rate
from durable_streams_tw.http.settings import Settings
from tests.http.authorization_case import AuthorizationCase, both_servers
from tests.http.server_fixture import ROOT

WRITES = (("PUT", b"x"), ("POST", b"x"), ("DELETE", None))


class OpenToAll(AuthorizationCase):
    """Server without authentication."""

    asks = False

    def test_nothing_in_between(self) -> None:
        """Without requirements there is no `AuthorizedHandler`."""
        self.assertIsNone(self.streams.authorized_handler)
        self.assertIs(self.streams._handler, self.streams.stream_handler)
        self.assertEqual(self.status("PUT", "a", None, b"", Origin="https://evil.example"), 201)


class NamedOrigins(AuthorizationCase):
    """Named origins without tokens: the network is the credential."""

    asks = False
    settings = Settings(cors_origins=("https://app.example",))

    def test_writes(self) -> None:
        """Named origins, the server's own, and clients that are not browsers may write."""
        for method, body in WRITES:
            for fields, allowed in (
                ({}, True),
                ({"Origin": "https://app.example"}, True),
                ({"Origin": "HTTPS://APP.example"}, True),
                ({"Origin": "http://streams.example"}, True),
                ({"Origin": "https://streams.example"}, True),
                ({"Origin": "http://streams.example:80"}, False),
                ({"Origin": "http://app.example"}, False),
                ({"Origin": "https://evil.example"}, False),
                ({"Origin": "https://app.example.evil.example"}, False),
                ({"Origin": "https://app.example:8443"}, False),
                ({"Origin": "https://xapp.example"}, False),
                ({"Origin": "null"}, False),
                ({"Origin": ""}, False),
                ({"Origin": "https://evil.example/https://app.example"}, False),
                ({"Origin": "http://streams.example@evil.example"}, False),
                ({"Origin": "http://localhost"}, False),
                ({"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}, False),
                ({"Origin": "https://evil.example", "Sec_Fetch_Site": "same-site"}, False),
                ({"Sec_Fetch_Site": "cross-site"}, False),
                ({"Sec_Fetch_Site": "same-site"}, False),
                ({"Sec_Fetch_Site": "same-origin"}, True),
                ({"Sec_Fetch_Site": "none"}, True),
            ):
                answer = self.ask(method, "a", None, body, Content_Type="text/plain", **fields)
                self.assertEqual(answer.status != 403, allowed, (method, fields, answer))
                if not allowed:
                    self.assertIn(b"cross-site", answer.body)

    def test_reads(self) -> None:
        """Reads are allowed for every origin, without CORS headers."""
        answer = self.ask("GET", "a", None, None, Origin="https://evil.example")
        self.assertEqual(answer.status, 404)
        self.assertNotIn("access-control-allow-origin", answer.header)

    def test_control(self) -> None:
        """Subscriptions follow the rules of streams."""
        path = "__ds/subscriptions/s"
        self.assertEqual(self.status("PUT", path, None, b"{}", Origin="https://evil.example"), 403)
        self.assertEqual(self.status("PUT", path, None, b"{}", Origin="https://app.example"), 400)


class LocalPages(AuthorizationCase):
    """Settings of ``durable-streams dev``."""

    asks = False
    settings = Settings(cors_origins=("local",), allowed_hosts=("local",))

    def ask_as(self, host: str, **fields: str) -> int:
        """Send a write with a Host header."""
        client = self.connect()
        lines = [f"PUT {ROOT}a HTTP/1.1", f"Host: {host}", "Content-Length: 0"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        client.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        status = client.answers()[0].status
        client.leave()
        return status

    def test_hosts(self) -> None:
        """Requests with another Host are refused."""
        for host in ("localhost", "LOCALHOST:4437", "127.0.0.1:4437", "127.1.2.3", "[::1]:4437"):
            self.assertIn(self.ask_as(host), (200, 201), host)
        for host in (
            "evil.example",
            "evil.example:4437",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "0.0.0.0:4437",
            "10.0.0.1",
            "[::]:4437",
            "notlocalhost",
        ):
            self.assertEqual(self.ask_as(host), 403, host)
            # For the browser, such a page has the server's origin.
            rebound = {"Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
            self.assertEqual(self.ask_as(host, **rebound), 403, host)
            forwarded = {"X_Forwarded_Host": "localhost", "X_Forwarded_Proto": "http"}
            self.assertEqual(self.ask_as(host, **forwarded), 403, host)

    def test_reads_and_preflights(self) -> None:
        """Reads and preflights with another Host are refused too."""
        for method in ("GET", "HEAD", "OPTIONS"):
            self.assertEqual(self.status(method, "a"), 403, method)

    def test_origins(self) -> None:
        """Origins of this machine are allowed with any port."""
        for origin in ("http://localhost:5173", "http://127.0.0.1:8000", "http://app.localhost"):
            self.assertIn(self.ask_as("localhost:4437", Origin=origin), (200, 201), origin)
        for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
            self.assertEqual(self.ask_as("localhost:4437", Origin=origin), 403, origin)

    def test_shown(self) -> None:
        """Allowed origins get CORS headers."""
        client = self.connect()
        head = f"GET {ROOT}a HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:5173\r\n\r\n"
        client.send(head.encode())
        header = client.answers()[0].header
        self.assertEqual(header["access-control-allow-origin"], "http://localhost:5173")
        self.assertIn("Origin", header["vary"])


class Cookies(AuthorizationCase):
    """Tokens in a cookie."""

    settings = Settings(auth_cookie="__Host-token")

    def test_cookie(self) -> None:
        """The cookie counts if there is no Authorization header."""
        self.put("a", b"x")
        good = "x=1; __Host-token=root; y=2"
        self.assertEqual(self.status("GET", "a", Cookie=good), 200)
        self.assertEqual(self.status("GET", "a", "nobody", Cookie=good), 401)
        for value in (
            "__host-token=root",
            "x__Host-token=root",
            "__Host-token=",
            "__Host-token",
            "__Host-token=root; __Host-token=other",
            '__Host-token="root"',
        ):
            self.assertEqual(self.status("GET", "a", Cookie=value), 401, value)

    def test_writes(self) -> None:
        """Writes with a cookie need an allowed origin."""
        cookie = {"Cookie": "__Host-token=root", "Content_Type": "text/plain"}
        for method, body in WRITES:
            for origin, allowed in (
                ("http://streams.example", True),
                ("https://evil.example", False),
                ("null", False),
            ):
                status = self.status(method, "a", None, body, Origin=origin, **cookie)
                self.assertEqual(status != 403, allowed, (method, origin))
                # The browser does not add an Authorization header by itself, so the page knows the
                # token.
                status = self.status(method, "a", "root", body, Origin=origin, **cookie)
                self.assertNotEqual(status, 403)
        self.assertEqual(
            self.status("POST", "a", None, b"x", Sec_Fetch_Site="cross-site", **cookie), 403
        )

    def test_vary(self) -> None:
        """Responses vary by cookie and have no CORS headers for other origins."""
        self.put("a", b"x")
        answer = self.ask(
            "GET", "a", None, None, Cookie="__Host-token=root", Origin="https://evil.example"
        )
        self.assertIn("Cookie", answer.header["vary"])
        self.assertEqual(answer.header["access-control-allow-origin"], "*")
        self.assertNotIn("access-control-allow-credentials", answer.header)


class SharedCookies(AuthorizationCase):
    """Tokens in a cookie, for an application of another origin."""

    settings = Settings(auth_cookie="token", cors_origins=("https://app.example",))

    def test_named(self) -> None:
        """Named origins may send the cookie and read responses."""
        fields = {"Cookie": "token=root", "Origin": "https://app.example"}
        answer = self.ask("PUT", "a", None, b"", **fields)
        self.assertEqual(answer.status, 201)
        self.assertEqual(answer.header["access-control-allow-credentials"], "true")
        fields["Origin"] = "https://evil.example"
        answer = self.ask("PUT", "a", None, b"", **fields)
        self.assertEqual(answer.status, 403)
        self.assertNotIn("access-control-allow-origin", answer.header)


class RatesByAddress(AuthorizationCase):
    """Rate limits of clients without a token."""

    asks = False
    settings = Settings(rate=Rate(5, 1.0))

    def test_rate(self) -> None:
        """A burst passes, then the client is refused until time has passed."""
        for _ in range(5):
            self.assertEqual(self.status("GET", "a"), 404)
        answer = self.ask("GET", "a")
        self.assertEqual((answer.status, answer.header["retry-after"]), (429, "1"))
        self.assertIn(b"too-many-requests", answer.body)
        self.clock.advance(0.2)
        self.assertEqual(self.status("GET", "a"), 404)
        self.assertEqual(self.status("GET", "a"), 429)

    def test_forwarded(self) -> None:
        """X-Forwarded-For is ignored without ``trust_proxy``."""
        for number in range(5):
            self.assertEqual(self.status("GET", "a", X_Forwarded_For=f"10.0.0.{number}"), 404)
        self.assertEqual(self.status("GET", "a", X_Forwarded_For="10.0.0.9"), 429)


class RatesBehindProxy(AuthorizationCase):
    """Rate limits behind a proxy."""

    asks = False
    settings = Settings(rate=Rate(2, 1.0), trust_proxy=True)

    def test_forwarded(self) -> None:
        """The last entry of X-Forwarded-For counts."""
        for number in range(2):
            status = self.status("GET", "a", X_Forwarded_For=f"10.9.9.{number}, 10.0.0.1")
            self.assertEqual(status, 404)
        self.assertEqual(self.status("GET", "a", X_Forwarded_For="10.9.9.9, 10.0.0.1"), 429)
        self.assertEqual(self.status("GET", "a", X_Forwarded_For="10.0.0.2"), 404)


class RatesByName(AuthorizationCase):
    """Rate limits of identities."""

    settings = Settings(rate=Rate(3, 1.0))

    def test_names(self) -> None:
        """Each identity has its own rate, at whatever address."""
        self.give("a", ("", "read"))
        self.give("b", ("", "read"))
        self.assertEqual([self.status("GET", "x", "a") for _ in range(4)], [404] * 3 + [429])
        self.assertEqual(self.status("GET", "x", "b"), 404)

    def test_guessing(self) -> None:
        """Invalid tokens count for the address; a valid one from there is not limited by them."""
        self.give("a", ("", "read"))
        self.assertEqual(self.status("GET", "x", "a"), 404)
        self.clock.advance(1)
        guesses = [self.status("GET", "x", f"guess{number}") for number in range(5)]
        self.assertEqual(guesses, [401] * 3 + [429] * 2)
        self.assertEqual(self.status("GET", "x"), 429)
        self.assertEqual(self.status("GET", "x", "a"), 404)


for _case in (
    OpenToAll,
    NamedOrigins,
    LocalPages,
    Cookies,
    SharedCookies,
    RatesByAddress,
    RatesBehindProxy,
    RatesByName,
):
    for _one in both_servers(_case):
        globals()[_one.__name__] = _one
    del globals()[_case.__name__]
del AuthorizationCase, _case, _one
