"""Tests of `durable_streams_tw.service.value_parsers`."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service import value_parsers as parsers
from durable_streams_tw.service.value_parsers import InvalidValue


class UnitsTests(SynchronousTestCase):
    """Valid values, and the error messages of others."""

    def refused(self, parse: Callable[[str], object], wanted: str, *texts: str) -> None:
        """Assert that each value is refused."""
        for text in texts:
            error = self.assertRaises(InvalidValue, parse, text)
            self.assertIn(wanted, str(error))

    def test_seconds(self) -> None:
        """Durations are milliseconds to hours; a bare number is in seconds."""
        for text, value in {
            "500ms": 0.5,
            "30s": 30,
            "30": 30,
            "1.5": 1.5,
            "2m": 120,
            "1h": 3600,
            "24h": 86400,
            "1d": 86400,
            "10 S": 10,
            " 7s ": 7,
        }.items():
            self.assertEqual(parsers.seconds(text), value)
        self.refused(
            parsers.seconds,
            "a time such as",
            *("", "s", "x", "-1s", "+1s", "1w", "1s2", "1e3", "\u0661s", "1,5s"),
        )
        self.refused(parsers.seconds, "more than 0 and at most 24h", "0", "0ms", "25h", "2d")

    def test_size(self) -> None:
        """Sizes have binary units in any spelling; a bare number is in bytes."""
        for text, value in {
            "1": 1,
            "65536": 65536,
            "512k": 512 * 1024,
            "1KB": 1024,
            "64MiB": 64 * 1024**2,
            "64m": 64 * 1024**2,
            "1.5 MiB": 3 * 512 * 1024,
            "2GiB": 2 * 1024**3,
            "3TiB": 3 * 1024**4,
        }.items():
            self.assertEqual(parsers.size(text), value)
        self.refused(
            parsers.size,
            "a size such as",
            *("", "k", "-1", "1x", "1 2", "1e3", "ten", "1PiB"),
        )
        self.refused(parsers.size, "at least one byte", "0", "0.1")

    def test_port(self) -> None:
        """A port is a number from 0 to 65535."""
        self.assertEqual([parsers.port(text) for text in ("0", "4437", "65535")], [0, 4437, 65535])
        self.refused(
            parsers.port, "0 to 65535", "", "-1", "65536", "http", "1.0", "123456", "\u0661"
        )

    def test_root(self) -> None:
        """A root is a path of plain characters; its trailing slash is optional."""
        for text, value in {
            "/v1/stream/": b"v1/stream/",
            "/v1/stream": b"v1/stream/",
            "/": b"",
            "/a": b"a/",
            "": b"",
        }.items():
            self.assertEqual(parsers.root(text), value)
        self.refused(
            parsers.root,
            "a path",
            "v1",
            "//",
            "/a//b",
            "/a/../b",
            "/./",
            "/a b",
            "/a?b",
            "/%61",
            "/é",
        )

    def test_origin(self) -> None:
        """An origin has the form of the Origin header."""
        for text in ("*", "https://app.example", "http://localhost:3000", "http://[::1]:80"):
            self.assertEqual(parsers.origin(text), text)
        self.assertEqual(parsers.origin("HTTPS://App.Example"), "https://app.example")
        self.refused(
            parsers.origin,
            "an origin such as",
            *("", "app.example", "https://", "https://a/", "https://a/b", "null", "https://a b"),
        )

    def test_public_url(self) -> None:
        """A public URL has scheme, host, and an optional path prefix."""
        for text, value in {
            "https://streams.example": "https://streams.example",
            "http://10.0.0.1:4437/": "http://10.0.0.1:4437",
            "https://[2001:db8::1]:8443/a/b/": "https://[2001:db8::1]:8443/a/b",
        }.items():
            self.assertEqual(parsers.public_url(text), value)
        self.refused(
            parsers.public_url,
            "a URL such as",
            *("", "streams.example", "ftp://a", "https://", "https:///a", "https://a//b"),
            *("https://a?b", "https://a#b", "https://u@a", "https://a b", "https://a:port"),
        )

    def test_count(self) -> None:
        """A count is a number without a sign."""
        self.assertEqual([parsers.count(text) for text in ("0", "7", "100000")], [0, 7, 100000])
        self.refused(parsers.count, "a number", "", "-1", "1.5", "many", "1234567890", "\u0661")

    def test_flag(self) -> None:
        """Flags accept the usual words for true and false."""
        self.assertEqual({parsers.flag(text) for text in ("true", "YES", "on", "1")}, {True})
        self.assertEqual({parsers.flag(text) for text in ("false", "No", "off", "0")}, {False})
        self.refused(parsers.flag, "true or false", "", "2", "maybe", "truetrue")

    def test_choice(self) -> None:
        """A choice is one of a list of words."""
        self.assertEqual(parsers.choice("a", "b")("b"), "b")
        self.refused(parsers.choice("a", "b", "c"), "expected a, b or c", "", "d", "A")

    def test_places(self) -> None:
        """Addresses lose their brackets, and required values must not be empty."""
        self.assertEqual(parsers.interface("[::1]"), "::1")
        self.assertEqual(parsers.interface("10.0.0.1"), "10.0.0.1")
        self.assertEqual(parsers.endpoint("tcp:1"), "tcp:1")
        self.refused(parsers.endpoint, "an endpoint such as", "", " ")
        self.assertEqual(parsers.directory("x"), os.path.abspath("x"))
        self.refused(parsers.directory, "may not be empty", "")

    def test_auth_shown(self) -> None:
        """Shown `auth` values contain paths and issuers, but no credentials of URLs and unknown
        kinds.
        """
        for text, shown in {
            "file:tokens.toml": "file:tokens.toml",
            "jwt:issuer=https://id.example,jwks=https://id.example/keys,audience=a": None,
            "jwt:jwks=https://me:s3cret@id.example/keys?k=s3cret,audience=a": (
                "jwt:jwks=https://***@id.example/keys?***,audience=a"
            ),
            "memory:user:s3cret": "memory:***",
            "s3cret with spaces:s3cret": "s3cret with spaces:***",
            "memory": "memory",
        }.items():
            self.assertEqual(parsers.redact_auth(text), shown or text)

    def test_redacted_database(self) -> None:
        """Passwords of a database URL are not shown; the rest is."""
        for text, shown in {
            "postgresql://db/streams": "postgresql://db/streams",
            "postgresql://u@a,b:5433/streams": "postgresql://u@a,b:5433/streams",
            "postgresql://u:geheim@a,b:5433/s": "postgresql://u:***@a,b:5433/s",
            "postgres://u:ge/he@im@db/s?user=x": "postgres://u:***@db/s?user=x",
            "postgresql:///s?host=/run&password=geheim&user=u": (
                "postgresql:///s?host=/run&password=***&user=u"
            ),
            "postgresql:///s?sslpassword=geheim": "postgresql:///s?sslpassword=***",
            "host=db password=geheim": "***",
        }.items():
            self.assertEqual(parsers.redact_database(text), shown)

    def test_database(self) -> None:
        """A database is a URL of libpq; a schema and a node have names without special
        characters.
        """
        self.assertEqual(parsers.database("postgres://db/streams"), "postgres://db/streams")
        for parse, bad in (
            (parsers.database, "host=db"),
            (parsers.database, "postgresql://db\n/x"),
            (parsers.schema, "1st"),
            (parsers.schema, 'a"b'),
            (parsers.schema, "a" * 64),
            (parsers.node, "a b"),
            (parsers.node, ""),
        ):
            self.assertRaises(parsers.InvalidValue, parse, bad)
