"""Word to the service manager that has started the process (sd_notify(3)).

A datagram of lines to a socket that the environment names: too little for a library. Those that
there are either need systemd's headers to be built, or have not been touched for years.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger


class SystemdNotifier(Service):
    """Says that the service is ready, reads its files anew, stops; to nobody where nobody listens.

    To be the last of the services: it starts when all others have, and stops before them.
    ``address`` is the socket's path, with an @ in front of a name without a file; None for none.
    """

    _log = Logger()

    def __init__(self, address: str | None) -> None:
        self._address = address

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> SystemdNotifier:
        """The one that a process with this environment is under."""
        return cls(environment.get("NOTIFY_SOCKET") or None)

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return self._address is not None

    def startService(self) -> None:
        """Requests are answered from now on."""
        Service.startService(self)
        self.ready()

    def stopService(self) -> Deferred[None]:
        """New requests are turned away from now on, and those under way come to their end."""
        Service.stopService(self)
        self._say("STOPPING=1")
        return succeed(None)

    def reloading(self) -> None:
        """Files are being read anew; `ready` ends that."""
        # By the manager's clock, so that it knows which of its requests this belongs to.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def ready(self) -> None:
        """All is up, or up again."""
        self._say("READY=1")

    def _say(self, lines: str) -> None:
        if self._address is None:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
                # A manager that does not listen must not stop the server.
                speaker.setblocking(False)
                speaker.sendto(lines.encode(), address)
        except OSError as error:
            self._log.warn(
                "The service manager cannot be told {lines}: {reason}",
                lines=lines.partition("\n")[0],
                reason=error.strerror or str(error),
            )
