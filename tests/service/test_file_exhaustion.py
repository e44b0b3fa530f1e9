"""Tests of logging while no file descriptor is free: few lines, however many clients connect."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.protocol import ServerFactory
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.service.file_exhaustion import QUIET, FileExhaustion


class _Listener:
    """Listening socket whose accept fails with EMFILE a few times."""

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self._full = True

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        if not self.clients:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._full = not self._full
        if not self._full:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.clients -= 1
        one, other = socket.socketpair()
        other.close()
        return one, ("192.0.2.1", 1)


class FileExhaustionTests(SynchronousTestCase):
    """Twisted's TCP port without free descriptors."""

    def setUp(self) -> None:
        self.now = 0.0
        self.logged: list[LogEvent] = []
        observer: Any = self.logged.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        reactor: Any = MemoryReactorClock()
        self.port: Any = tcp.Port(0, ServerFactory(), reactor=reactor)
        FileExhaustion(lambda: self.now).watch(self.port)

    def connect_clients(self, clients: int) -> list[str]:
        """Let clients connect one by one; return the log events."""
        self.logged.clear()
        for _ in range(clients):
            self.port.socket = _Listener(1)
            self.port.numberAccepts = 10
            self.port.doRead()
        return [str(event["log_format"]).format(**event) for event in self.logged]

    def test_one_line_a_minute(self) -> None:
        """The first failure is logged at once, later ones together, once a minute."""
        (first,) = self.connect_clients(200)
        self.assertIn("1 connections were closed without a response", first)
        self.now = QUIET - 1
        self.assertEqual(self.connect_clients(1), [])
        self.now = QUIET
        (second,) = self.connect_clients(1)
        self.assertIn("201 connections", second)

    def test_the_rest(self) -> None:
        """Other log events of a port are unchanged."""
        self.port._logger.warn("something else")
        self.assertEqual([event["log_format"] for event in self.logged], ["something else"])
