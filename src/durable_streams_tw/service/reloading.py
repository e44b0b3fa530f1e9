"""What a running server reads anew on SIGHUP: certificates."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from durable_streams_tw.service.certificates import TLSEndpoint, UnusableCertificate
from durable_streams_tw.service.supervision import Supervision


class Reloading(Service):
    """Reads the certificates of ``endpoints`` anew when the process gets SIGHUP.

    Without any of them the signal keeps its meaning: a terminal that is closed ends what runs
    in it. Not so under a service manager: it sends the signal to ask for this, and waits to be
    told that it is done.
    """

    _log = Logger()

    def __init__(
        self,
        endpoints: Sequence[TLSEndpoint],
        reactor: Any,
        supervision: Supervision | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._reactor = reactor
        self._supervision = supervision or Supervision(None)
        self._listens = bool(endpoints) or self._supervision.wanted
        self._before: Any = None

    def startService(self) -> None:
        """Begin to listen for the signal."""
        Service.startService(self)
        if self._listens:
            self._before = signal.signal(signal.SIGHUP, self._hear)

    def stopService(self) -> Deferred[None]:
        """The signal means what it meant before."""
        Service.stopService(self)
        if self._listens:
            signal.signal(signal.SIGHUP, self._before)
        return succeed(None)

    def _hear(self, number: int, frame: object) -> None:
        # A signal comes between any two steps of the program: the reactor's turn is safe.
        self._reactor.callFromThread(self.reload)
        # Of another service in the same process, perhaps.
        if callable(self._before):
            self._before(number, frame)

    def reload(self) -> None:
        """Read them anew; one that cannot be used keeps what it has, and the log says why."""
        self._supervision.reloading()
        try:
            for endpoint in self._endpoints:
                self._reload(endpoint)
        finally:
            self._supervision.ready()

    def _reload(self, endpoint: TLSEndpoint) -> None:
        try:
            endpoint.reload()
        except UnusableCertificate as unusable:
            self._log.error(
                "The certificate of {endpoint} cannot be used, the one from before goes on "
                "serving: {reason}",
                endpoint=endpoint.text,
                reason=str(unusable),
            )
        else:
            self._log.info(
                "New connections to {endpoint} get the certificate that its files hold now",
                endpoint=endpoint.text,
            )
