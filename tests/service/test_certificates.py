"""Tests of certificates that are replaced while the server runs."""

from __future__ import annotations

import os
import signal
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
from tests.service.black_box import new_directory
from tests.service.pem import cached_pem, endpoint


class CertificateTestCase(SynchronousTestCase):
    """Test case with PEM files in a directory, and an endpoint on an in-memory reactor."""

    def setUp(self) -> None:
        self.folder = new_directory(self)
        cached_pem("first").write(self.folder)
        self.reactor = MemoryReactorClock()
        self.endpoint = TLSEndpoint(self.reactor, endpoint(self.folder, 8443))

    def connected(self) -> Any:
        """Return the client's end of a new connection after the handshake."""
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

    def certificate_name(self) -> str:
        """Return the name on the certificate of a new connection."""
        return self.name(self.connected())

    def name(self, client: Any) -> str:
        """Return the name on the certificate that a client received."""
        seen: crypto.X509 = client.getPeerCertificate()
        return str(seen.get_subject().CN)


class TLSEndpointTests(CertificateTestCase):
    """`TLSEndpoint`: loading and reloading."""

    def test_new_connections_get_the_new_certificate(self) -> None:
        """After a reload, new connections get the new certificate; old connections continue."""
        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        old = self.connected()
        old_pump = self.pump
        cached_pem("second").write(self.folder)
        self.assertEqual(self.certificate_name(), "first")
        self.endpoint.reload()
        self.assertEqual(self.certificate_name(), "second")
        got: list[bytes] = []
        old.wrappedProtocol.dataReceived = got.append
        old_pump.server.wrappedProtocol.transport.write(b"still there")
        self.reactor.advance(0)
        old_pump.flush()
        self.assertEqual(got, [b"still there"])
        self.assertEqual(self.name(old), "first")

    def test_unusable(self) -> None:
        """An unusable certificate is reported, and the old one stays in use."""
        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        key, certificate = self.folder / "key.pem", self.folder / "cert.pem"
        for path, content, word in (
            (key, cached_pem("second").key, "do not match"),
            (certificate, b"", "PEM"),
            (certificate, b"no certificate\n", "PEM"),
            (certificate, cached_pem("first").certificate[:300], "PEM"),
            (key, b"", "PEM"),
        ):
            cached_pem("first").write(self.folder)
            path.write_bytes(content)
            error = self.assertRaises(UnusableCertificate, self.endpoint.reload)
            self.assertIn(word, str(error))
            self.assertEqual(self.certificate_name(), "first")
            error = self.assertRaises(
                UnusableCertificate, TLSEndpoint, self.reactor, self.endpoint.text
            )
            self.assertIn(word, str(error))
        certificate.unlink()
        error = self.assertRaises(UnusableCertificate, self.endpoint.reload)
        self.assertEqual(str(error), f"{certificate}: No such file or directory")
        self.assertEqual(self.certificate_name(), "first")


class ReloadingTests(CertificateTestCase):
    """SIGHUP."""

    def setUp(self) -> None:
        super().setUp()
        self.before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, self.before)

    def test_signal(self) -> None:
        """The signal is handled from start to stop, in a turn of the reactor."""
        called: list[Any] = []

        class Threads:
            callFromThread = called.append

        service = ReloadService([self.endpoint], Threads)
        service.startService()
        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        cached_pem("second").write(self.folder)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(self.certificate_name(), "first")
        (reload,) = called
        reload()
        self.assertEqual(self.certificate_name(), "second")
        self.successResultOf(service.stopService())
        self.assertEqual(signal.getsignal(signal.SIGHUP), self.before)

    def test_one_of_two(self) -> None:
        """An unusable certificate does not prevent the reload of others."""
        other = new_directory(self)
        cached_pem("first").write(other)
        broken = TLSEndpoint(self.reactor, endpoint(other, 8444))
        (other / "key.pem").unlink()
        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        cached_pem("second").write(self.folder)
        ReloadService([broken, self.endpoint], self.reactor).reload()
        self.assertEqual(self.certificate_name(), "second")

    def test_two_services(self) -> None:
        """SIGHUP reloads two services of one process."""
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
        """Without TLS the signal reopens the log, and the server continues."""
        reopened: list[None] = []
        service = ReloadService([], self.reactor, reopen_log=lambda: reopened.append(None))
        service.startService()
        service.hang_up()
        self.assertEqual(len(reopened), 1)
        self.successResultOf(service.stopService())
        self.assertEqual(signal.getsignal(signal.SIGHUP), self.before)

    def test_log_that_cannot_be_opened(self) -> None:
        """A log that cannot be reopened is reported, and certificates are reloaded."""

        def refuse() -> None:
            raise PermissionError(13, "Permission denied", "twistd.log")

        self.successResultOf(self.endpoint.listen(Factory.forProtocol(Protocol)))
        cached_pem("second").write(self.folder)
        with capturedLogs() as events:
            ReloadService([self.endpoint], self.reactor, reopen_log=refuse).reload()
        self.assertEqual(self.certificate_name(), "second")
        self.assertIn("Permission denied", str(formatEvent(events[0])))

    def test_closed_terminal(self) -> None:
        """A server whose terminal was closed stops; under nohup it continues."""
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
