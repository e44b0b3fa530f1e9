"""Times, sizes, paths and origins on a command line."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service import units
from durable_streams_tw.service.units import BadValue


class UnitsTests(SynchronousTestCase):
    """What is understood, and that all else is refused with what would be right."""

    def refused(self, parse: Callable[[str], object], wanted: str, *texts: str) -> None:
        """None of these is understood."""
        for text in texts:
            error = self.assertRaises(BadValue, parse, text)
            self.assertIn(wanted, str(error))

    def test_seconds(self) -> None:
        """Milliseconds to hours; a bare number means seconds."""
        for text, value in {
            "500ms": 0.5,
            "30s": 30,
            "30": 30,
            "1.5": 1.5,
            "2m": 120,
            "1h": 3600,
            "24h": 86400,
            "10 S": 10,
            " 7s ": 7,
        }.items():
            self.assertEqual(units.seconds(text), value)
        self.refused(
            units.seconds,
            "a time such as",
            *("", "s", "x", "-1s", "+1s", "1d", "1s2", "1e3", "\u0661s", "1,5s"),
        )
        self.refused(units.seconds, "more than nothing and at most a day", "0", "0ms", "25h")

    def test_size(self) -> None:
        """Units of 1024, however they are written; a bare number means bytes."""
        for text, value in {
            "1": 1,
            "65536": 65536,
            "512k": 512 * 1024,
            "1KB": 1024,
            "64MiB": 64 * 1024**2,
            "64m": 64 * 1024**2,
            "1.5 MiB": 3 * 512 * 1024,
            "2GiB": 2 * 1024**3,
        }.items():
            self.assertEqual(units.size(text), value)
        self.refused(
            units.size,
            "a size such as",
            *("", "k", "-1", "1x", "1 2", "1e3", "ten", "1TiB"),
        )
        self.refused(units.size, "at least one byte", "0", "0.1")

    def test_port(self) -> None:
        """A TCP port."""
        self.assertEqual([units.port(text) for text in ("0", "4437", "65535")], [0, 4437, 65535])
        self.refused(units.port, "0 to 65535", "", "-1", "65536", "http", "1.0", "123456", "\u0661")

    def test_root(self) -> None:
        """A path of plain characters; the slash at its end may be left out."""
        for text, value in {
            "/v1/stream/": b"v1/stream/",
            "/v1/stream": b"v1/stream/",
            "/": b"",
            "/a": b"a/",
            "": b"",
        }.items():
            self.assertEqual(units.root(text), value)
        self.refused(
            units.root,
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
        """What browsers send as Origin."""
        for text in ("*", "https://app.example", "http://localhost:3000", "http://[::1]:80"):
            self.assertEqual(units.origin(text), text)
        self.assertEqual(units.origin("HTTPS://App.Example"), "https://app.example")
        self.refused(
            units.origin,
            "an origin such as",
            *("", "app.example", "https://", "https://a/", "https://a/b", "null", "https://a b"),
        )

    def test_public_url(self) -> None:
        """Scheme, host and what a proxy has before the root."""
        for text, value in {
            "https://streams.example": "https://streams.example",
            "http://10.0.0.1:4437/": "http://10.0.0.1:4437",
            "https://[2001:db8::1]:8443/a/b/": "https://[2001:db8::1]:8443/a/b",
        }.items():
            self.assertEqual(units.public_url(text), value)
        self.refused(
            units.public_url,
            "a URL such as",
            *("", "streams.example", "ftp://a", "https://", "https:///a", "https://a//b"),
            *("https://a?b", "https://a#b", "https://u@a", "https://a b", "https://a:port"),
        )

    def test_count(self) -> None:
        """A number, without a sign."""
        self.assertEqual([units.count(text) for text in ("0", "7", "100000")], [0, 7, 100000])
        self.refused(units.count, "a number", "", "-1", "1.5", "many", "1234567890", "\u0661")

    def test_flag(self) -> None:
        """The words that people write for yes and no."""
        self.assertEqual({units.flag(text) for text in ("true", "YES", "on", "1")}, {True})
        self.assertEqual({units.flag(text) for text in ("false", "No", "off", "0")}, {False})
        self.refused(units.flag, "true or false", "", "2", "maybe", "truetrue")

    def test_choice(self) -> None:
        """One of some words."""
        self.assertEqual(units.choice("a", "b")("b"), "b")
        self.refused(units.choice("a", "b"), "is a or b", "", "c", "A")

    def test_places(self) -> None:
        """Addresses lose their brackets; what has to be there is not empty."""
        self.assertEqual(units.interface("[::1]"), "::1")
        self.assertEqual(units.interface("10.0.0.1"), "10.0.0.1")
        self.assertEqual(units.endpoint("tcp:1"), "tcp:1")
        self.refused(units.endpoint, "an endpoint such as", "", " ")
        self.assertEqual(units.directory("x"), os.path.abspath("x"))
        self.refused(units.directory, "may not be empty", "")

    def test_auth_shown(self) -> None:
        """Paths and issuers may be printed, what a URL or a foreign kind carries may not."""
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
            self.assertEqual(units.auth_shown(text), shown or text)
