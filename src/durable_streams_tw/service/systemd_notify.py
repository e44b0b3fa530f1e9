"""Notification of systemd (sd_notify(3)).

A notification is one datagram to the socket in ``NOTIFY_SOCKET``. The existing libraries need the
headers of systemd or are unmaintained.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from durable_streams_tw.service.startup import when_running


class SystemdNotifier(Service):
    """Service that notifies systemd of readiness, reload and stop.

    It must be the last service: it starts after all others and stops before them. ``address`` is
    the path of the socket, or @NAME for an abstract socket; None disables notifications.
    """

    _log = Logger()

    def __init__(self, reactor: Any, address: str | None) -> None:
        self._reactor = reactor
        self._address = address

    @classmethod
    def of(cls, reactor: Any, environment: Mapping[str, str] = os.environ) -> SystemdNotifier:
        """Return the notifier for the environment of a process."""
        return cls(reactor, environment.get("NOTIFY_SOCKET") or None)

    @property
    def wanted(self) -> bool:
        """True if notifications are enabled."""
        return self._address is not None

    def startService(self) -> None:
        """Notify systemd that the server is ready, once the reactor runs and handles signals."""
        Service.startService(self)
        when_running(self, self._reactor, self.ready)

    def stopService(self) -> Deferred[None]:
        """Notify systemd that the server is stopping."""
        Service.stopService(self)
        self._send("STOPPING=1")
        return succeed(None)

    def reloading(self) -> None:
        """Notify systemd of a reload, which `ready` ends."""
        # systemd matches the reload to its request by this clock.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def ready(self) -> None:
        """Notify systemd that the server is ready."""
        self._send("READY=1")

    def _send(self, lines: str) -> None:
        if self._address is None:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                # A full socket of systemd must not block the server.
                client.setblocking(False)
                client.sendto(lines.encode(), address)
        except OSError as error:
            self._log.warn(
                "Could not notify systemd of {lines}: {reason}",
                lines=lines.partition("\n")[0],
                reason=error.strerror or str(error),
            )
