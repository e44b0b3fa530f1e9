"""Times, sizes, paths and origins on a command line."""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service import units


class UnitsTests(SynchronousTestCase):
    """What is understood, and that all else is refused with the option's name."""

    def refused(self, parse: Callable[[str], object], option: str, *texts: str) -> None:
        """None of these is understood."""
        for text in texts:
            error = self.assertRaises(UsageError, parse, text)
            self.assertIn(f"--{option}", str(error))
            self.assertIn(repr(text), str(error))

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
            self.assertEqual(units.seconds("t", text), value)
        self.refused(
            lambda text: units.seconds("t", text),
            "t",
            *("", "s", "x", "-1s", "+1s", "1d", "1s2", "1e3", "0", "0ms", "25h", "\u0661s", "1,5s"),
        )

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
            self.assertEqual(units.size("s", text), value)
        self.refused(
            lambda text: units.size("s", text),
            "s",
            *("", "k", "-1", "0", "0.1", "1x", "1 2", "1e3", "ten", "1TiB"),
        )

    def test_port(self) -> None:
        """A TCP port."""
        self.assertEqual([units.port(text) for text in ("0", "4437", "65535")], [0, 4437, 65535])
        self.refused(units.port, "port", "", "-1", "65536", "http", "1.0", "123456", "\u0661")

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
            units.root, "root", "v1", "//", "/a//b", "/a/../b", "/./", "/a b", "/a?b", "/%61", "/é"
        )

    def test_origin(self) -> None:
        """What browsers send as Origin."""
        for text in ("*", "https://app.example", "http://localhost:3000", "http://[::1]:80"):
            self.assertEqual(units.origin(text), text)
        self.assertEqual(units.origin("HTTPS://App.Example"), "https://app.example")
        self.refused(
            units.origin,
            "cors-origin",
            *("", "app.example", "https://", "https://a/", "https://a/b", "null", "https://a b"),
        )

    def test_public_url(self) -> None:
        """Scheme, host and what a proxy has before the root; the root comes behind it."""
        for text, value in {
            "https://streams.example": "https://streams.example/v1/stream/",
            "http://10.0.0.1:4437/": "http://10.0.0.1:4437/v1/stream/",
            "https://[2001:db8::1]:8443/a/b/": "https://[2001:db8::1]:8443/a/b/v1/stream/",
        }.items():
            self.assertEqual(units.public_url(text, b"v1/stream/"), value)
        self.assertEqual(units.public_url("https://a.example", b""), "https://a.example/")
        self.assertIsNone(units.public_url(None, b"v1/stream/"))
        self.refused(
            lambda text: units.public_url(text, b""),
            "public-url",
            *("", "streams.example", "ftp://a", "https://", "https:///a", "https://a//b"),
            *("https://a?b", "https://a#b", "https://u@a", "https://a b", "https://a:port"),
        )
