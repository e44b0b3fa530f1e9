"""Certificates that are replaced while they serve."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from OpenSSL import crypto
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.test.iosim import connect, makeFakeClient, makeFakeServer
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.certificates import TLSEndpoint, UnusableCertificate
from durable_streams_tw.service.reload import ReloadService
from tests.service.pem import endpoint, pem


class CertificateTestCase(SynchronousTestCase):
    """Files in a folder, and an endpoint that listens in memory."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        pem("first").write(self.folder)
        self.reactor = MemoryReactorClock()
        self.endpoint = TLSEndpoint(self.reactor, endpoint(self.folder, 8443))

    def connected(self) -> Any:
        """A client's end of a new connection, hands shaken."""
        *_, (port, _, creator, backlog, interface) = self.reactor.sslServers
        self.assertEqual((port, backlog, interface), (8443, 50, "127.0.0.1"))
        server = TLSMemoryBIOFactory(creator, False, Factory.forProtocol(Protocol), self.reactor)
        client = TLSMemoryBIOFactory(
            CertificateOptions(), True, Factory.forProtocol(Protocol), self.reactor
        )
        ours, theirs = server.buildProtocol(None), client.buildProtocol(None)
        pump = connect(ours, makeFakeServer(ours), theirs, makeFakeClient(theirs))
        pump.flush()
        self.pump = pump
        return theirs

    def shown(self) -> str:
        """The name on the certificate that a new connection gets."""
        return self.name(self.connected())

    def name(self, client: Any) -> str:
        """The name on the certificate that a client has seen."""
        seen: crypto.X509 = client.getPeerCertificate()
        return str(seen.get_subject().CN)


class TLSEndpointTests(CertificateTestCase):
    """Reading, and reading anew."""

    def test_new_connections_get_the_new_certificate(self) -> None:
        """Once it is reloaded, not before; connections that are there go on."""
        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        old = self.connected()
        old_pump = self.pump
        pem("second").write(self.folder)
        self.assertEqual(self.shown(), "first")
        self.endpoint.reload()
        self.assertEqual(self.shown(), "second")
        got: list[bytes] = []
        old.wrappedProtocol.dataReceived = got.append
        old_pump.server.wrappedProtocol.transport.write(b"still there")
        self.reactor.advance(0)
        old_pump.flush()
        self.assertEqual(got, [b"still there"])
        self.assertEqual(self.name(old), "first")

    def test_unusable(self) -> None:
        """A sentence, and the old one goes on serving."""
        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        key, certificate = self.folder / "key.pem", self.folder / "cert.pem"
        for path, content, word in (
            (key, pem("second").key, "do not match"),
            (certificate, b"", "PEM"),
            (certificate, b"no certificate\n", "PEM"),
            (certificate, pem("first").certificate[:300], "PEM"),
            (key, b"", "PEM"),
        ):
            pem("first").write(self.folder)
            path.write_bytes(content)
            error = self.assertRaises(UnusableCertificate, self.endpoint.reload)
            self.assertIn(word, str(error))
            self.assertEqual(self.shown(), "first")
            error = self.assertRaises(
                UnusableCertificate, TLSEndpoint, self.reactor, self.endpoint.text
            )
            self.assertIn(word, str(error))
        certificate.unlink()
        error = self.assertRaises(UnusableCertificate, self.endpoint.reload)
        self.assertEqual(str(error), f"{certificate}: No such file or directory")
        self.assertEqual(self.shown(), "first")


class ReloadingTests(CertificateTestCase):
    """The signal."""

    def setUp(self) -> None:
        super().setUp()
        self.before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, self.before)

    def test_signal(self) -> None:
        """It is heard from start to stop, and acted on in the reactor's turn."""
        called: list[Any] = []

        class Threads:
            callFromThread = called.append

        service = ReloadService([self.endpoint], Threads)
        service.startService()
        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        pem("second").write(self.folder)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(self.shown(), "first")
        (reload,) = called
        reload()
        self.assertEqual(self.shown(), "second")
        self.successResultOf(service.stopService())
        self.assertEqual(signal.getsignal(signal.SIGHUP), self.before)

    def test_one_of_two(self) -> None:
        """One that cannot be used keeps nobody else from being reloaded."""
        other = Path(self.mktemp())
        other.mkdir()
        pem("first").write(other)
        broken = TLSEndpoint(self.reactor, endpoint(other, 8444))
        (other / "key.pem").unlink()
        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        pem("second").write(self.folder)
        ReloadService([broken, self.endpoint], self.reactor).reload()
        self.assertEqual(self.shown(), "second")

    def test_two_services(self) -> None:
        """Of two in one process both hear the signal."""
        called: list[Any] = []

        class Threads:
            callFromThread = called.append

        services = [ReloadService([self.endpoint], Threads) for _ in range(2)]
        for service in services:
            service.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(len(called), 2)
        for service in reversed(services):
            self.successResultOf(service.stopService())
        self.assertEqual(signal.getsignal(signal.SIGHUP), self.before)

    def test_nothing_to_reload(self) -> None:
        """Without TLS the signal reopens the log, and the server goes on."""
        reopened: list[None] = []
        service = ReloadService([], self.reactor, reopen_log=lambda: reopened.append(None))
        service.startService()
        service.hang_up()
        self.assertEqual(len(reopened), 1)
        self.successResultOf(service.stopService())
        self.assertEqual(signal.getsignal(signal.SIGHUP), self.before)

    def test_log_that_cannot_be_opened(self) -> None:
        """It is logged, and the certificates are loaded all the same."""

        def refuse() -> None:
            raise PermissionError(13, "Permission denied", "twistd.log")

        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        pem("second").write(self.folder)
        with capturedLogs() as events:
            ReloadService([self.endpoint], self.reactor, reopen_log=refuse).reload()
        self.assertEqual(self.shown(), "second")
        self.assertIn("Permission denied", str(formatEvent(events[0])))

    def test_closed_terminal(self) -> None:
        """A server whose terminal was closed stops; under nohup it goes on."""
        leader, follower = os.openpty()
        os.close(leader)
        self.addCleanup(os.close, follower)
        asked = os.tcgetpgrp
        self.patch(os, "tcgetpgrp", lambda descriptor: asked(follower))
        stops: list[None] = []

        class Stopping:
            def stop(self) -> None:
                stops.append(None)

        service = ReloadService([], Stopping())
        service.hang_up()
        self.assertEqual(len(stops), 1)
        service._before = signal.SIG_IGN
        service.hang_up()
        self.assertEqual(len(stops), 1)
