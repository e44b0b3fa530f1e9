"""Tests of listening sockets that workers inherit."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from durable_streams_tw.service.workers import shared_sockets
from durable_streams_tw.service.workers.shared_sockets import SPREADS, SocketBinder
from durable_streams_tw.service.workers.worker_process import child_environment


class SocketBinderTests(SynchronousTestCase):
    def bind(self, workers: int) -> SocketBinder:
        reactor: Any = None
        binder = SocketBinder(reactor, workers)
        self.addCleanup(binder.close)
        return binder

    def test_one_socket_each(self) -> None:
        """Each worker has a socket of its own per TCP port, all with the same address."""
        if not SPREADS:
            raise SkipTest("workers share a socket on this system")
        binder = self.bind(3)
        first = binder.listenTCP(0, Factory(), interface="127.0.0.1").getHost()
        second = binder.listenSSL(0, Factory(), None, interface="127.0.0.1").getHost()
        self.assertNotEqual(first.port, second.port)
        names = [one.getsockname()[1] for one in binder.sockets]
        self.assertEqual(names, [first.port] * 3 + [second.port] * 3)
        self.assertEqual([binder.positions(n) for n in range(3)], [(0, 3), (1, 4), (2, 5)])

    def test_shared_socket(self) -> None:
        """Workers share a socket that another program has opened."""
        binder = self.bind(2)
        with socket.create_server(("127.0.0.1", 0)) as opened:
            port = binder.adoptStreamPort(opened.fileno(), opened.family, Factory())
            self.assertEqual(port.getHost().port, opened.getsockname()[1])
        self.assertEqual([binder.positions(n) for n in range(2)], [(0,), (0,)])
        self.assertEqual(len(binder.sockets), 1)

    def test_port_in_use(self) -> None:
        """A port of another server is refused, although it could be shared; no socket is left."""
        self.patch(shared_sockets, "PORT_PATIENCE", 0.1)
        with socket.socket() as other:
            if SPREADS:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            binder = self.bind(2)
            refused = self.assertRaises(
                CannotListenError, binder.listenTCP, port, Factory(), interface="127.0.0.1"
            )
            self.assertEqual((refused.interface, refused.port), ("127.0.0.1", port))
        self.assertEqual(binder.sockets, [])
        binder.listenTCP(port, Factory(), interface="127.0.0.1")
        self.assertEqual({one.getsockname()[1] for one in binder.sockets}, {port})
        self.assertEqual(len(binder.sockets), 2 if SPREADS else 1)


class EnvironmentTests(SynchronousTestCase):
    def test_child(self) -> None:
        """A worker gets no settings, and nothing that systemd has passed to the supervisor."""
        given = {
            "DURABLE_STREAMS_DATABASE": "postgresql://user:secret@host/streams",
            "LISTEN_FDS": "1",
            "LISTEN_PID": "7",
            "NOTIFY_SOCKET": "/run/notify",
            "OTEL_SERVICE_NAME": "streams",
            "PATH": "/bin",
        }
        kept = child_environment(given)
        kept.pop("PYTHONPATH")
        self.assertEqual(kept, {"OTEL_SERVICE_NAME": "streams", "PATH": "/bin"})
