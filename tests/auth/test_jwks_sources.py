"""Tests of `durable_streams_tw.auth.jwks_sources`, over an in-memory transport."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone

from durable_streams_tw.auth.jwks_sources import (
    FetchError,
    UnusableSource,
    _read,
    fetch,
    jwks_source,
)
from durable_streams_tw.auth.limits import KEY_SET_TIMEOUT, MAX_KEY_SET
from durable_streams_tw.outgoing.resolver import Resolver
from tests.outgoing.name_service import FakeNameService, ThreadedMemoryReactor

URL = "http://127.0.0.1:8080/jwks.json"


class FetchTests(SynchronousTestCase):
    """`fetch`."""

    def setUp(self) -> None:
        self.reactor = ThreadedMemoryReactor()
        self.names = FakeNameService()
        self.resolver = Resolver(self.reactor, self.names)
        self.fetched = fetch(self.reactor, URL, self.resolver)
        self.reactor.advance(0)

    def connect(self) -> Any:
        """Accept the connection."""
        _, _, factory, _, _ = self.reactor.tcpClients[-1]
        self.transport: Any = StringTransport()
        protocol: Any = factory.buildProtocol(None)
        protocol.makeConnection(self.transport)
        self.reactor.advance(0)
        return protocol

    def answer(self, head: bytes, body: bytes) -> None:
        """Send a response."""
        protocol = self.connect()
        protocol.dataReceived(b"HTTP/1.1 " + head + b"\r\n\r\n" + body)

    def why(self) -> str:
        """Return the message of the `FetchError`."""
        return str(self.failureResultOf(self.fetched, FetchError).value)

    def test_good(self) -> None:
        """The body of a 200 response is returned."""
        self.answer(b"200 OK\r\nContent-Length: 4", b"keys")
        self.assertEqual(self.successResultOf(self.fetched), b"keys")
        sent = self.transport.value()
        self.assertTrue(sent.startswith(b"GET /jwks.json HTTP/1.1\r\n"), sent)
        self.assertNotIn(b"gzip", sent)

    def test_statuses(self) -> None:
        """Other statuses are errors, and redirects are not followed."""
        for status in (b"404 No", b"500 No", b"302 Found\r\nLocation: http://evil.example/keys"):
            self.setUp()
            self.answer(status + b"\r\nContent-Length: 4", b"keys")
            self.assertIn("has status", self.why())
            self.assertEqual(len(self.reactor.tcpClients), 1)

    def test_large(self) -> None:
        """A response larger than `MAX_KEY_SET` is an error, and the connection is closed."""
        self.answer(b"200 OK\r\nContent-Length: 99999999", b"x" * (MAX_KEY_SET + 1))
        self.assertIn("larger than", self.why())
        self.assertTrue(self.transport.disconnecting)

    def test_not_unpacked(self) -> None:
        """A compressed response is not decompressed."""
        self.answer(b"200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4", b"\x1f\x8b\x08\x00")
        self.assertEqual(self.successResultOf(self.fetched), b"\x1f\x8b\x08\x00")

    def test_name_server_that_hangs(self) -> None:
        """A name server that hangs is a timeout like any other."""
        self.fetched.cancel()
        self.why()
        self.names.hanging.add("id.example")
        self.fetched = fetch(self.reactor, "http://id.example/keys", self.resolver)
        self.reactor.advance(KEY_SET_TIMEOUT)
        self.assertIn("no response within", self.why())
        self.names.answer("id.example")
        self.reactor.advance(0)
        self.assertEqual(len(self.reactor.tcpClients), 1)

    def test_refused(self) -> None:
        _, _, factory, _, _ = self.reactor.tcpClients[-1]
        nobody: Any = None
        factory.clientConnectionFailed(nobody, Failure(ConnectionRefusedError()))
        self.reactor.advance(1)
        self.assertIn("could not connect", self.why())

    def test_late(self) -> None:
        """The timeout covers connecting, the head and the body."""
        self.reactor.advance(KEY_SET_TIMEOUT)
        self.assertIn("no response within", self.why())
        for head in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nke"):
            self.setUp()
            protocol = self.connect()
            protocol.dataReceived(head)
            self.assertNoResult(self.fetched)
            self.reactor.advance(KEY_SET_TIMEOUT)
            self.assertIn("no response within", self.why())

    def test_torn(self) -> None:
        """A truncated body is an error."""
        protocol = self.connect()
        protocol.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nke")
        protocol.connectionLost(Failure(ResponseDone()))
        self.why()


class SourceTests(SynchronousTestCase):
    """`jwks_source`."""

    def test_refused(self) -> None:
        """URLs that are insecure, hold credentials, or are not URLs are refused."""
        for text in (
            "http://id.example/keys",
            "http://10.0.0.1/keys",
            "http://localhost.evil.example/keys",
            "http://localhost@evil.example/keys",
            "https://user:password@id.example/keys",
            "https://id.example/keys#x",
            "https://:443/keys",
            "https://id.example:port/keys",
            "ftp://id.example/keys",
            "file:///etc/passwd",
            "https://[::1/keys",
        ):
            error = self.assertRaises(UnusableSource, jwks_source, text, None)
            self.assertNotIn("password", str(error))

    def test_names(self) -> None:
        """The name for the log is the host or the path, without the query."""
        for text, name in (
            ("https://id.example/keys?secret=1", "id.example"),
            ("http://localhost:1/keys", "localhost"),
            ("http://[::1]:1/keys", "::1"),
            (__file__, __file__),
        ):
            self.assertEqual(jwks_source(text, None)[1], name)

    def test_files(self) -> None:
        """A file is read up to the bound, and one byte more."""
        path = Path(self.mktemp())
        self.assertRaises(FetchError, _read, str(path))
        error = self.assertRaises(UnusableSource, jwks_source, str(path), None)
        self.assertIn(f"{path}: could not read the file: No such file", str(error))
        path.write_bytes(b"x" * (MAX_KEY_SET + 100))
        self.assertEqual(len(_read(str(path))), MAX_KEY_SET + 1)
