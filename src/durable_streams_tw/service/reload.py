"""SIGHUP handling: reload of certificates and of the log file."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from durable_streams_tw.service.certificates import TLSEndpoint, UnusableCertificate
from durable_streams_tw.service.systemd_notify import SystemdNotifier

_log = Logger()


class ReloadService(Service):
    """Service that reloads certificates and reopens the log file on SIGHUP.

    ``reopen_log`` opens the log file by its name, after another program has renamed it. If SIGHUP
    means that the terminal was closed, the server stops, unless it was started with nohup.
    ``reload_workers`` reloads the certificates of worker processes.
    """

    _log = Logger()

    def __init__(
        self,
        endpoints: Sequence[TLSEndpoint],
        reactor: Any,
        supervision: SystemdNotifier | None = None,
        reopen_log: Callable[[], None] | None = None,
        reload_workers: Callable[[], Deferred[None]] | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._reload_workers = reload_workers
        self._reactor = reactor
        self._supervision = supervision or SystemdNotifier(reactor, None)
        self._reopen_log = reopen_log
        self._before: Any = None

    def startService(self) -> None:
        """Install the signal handler."""
        Service.startService(self)
        self._before = signal.signal(signal.SIGHUP, self._on_signal)

    def stopService(self) -> Deferred[None]:
        """Restore the previous signal handler."""
        Service.stopService(self)
        signal.signal(signal.SIGHUP, self._before)
        return succeed(None)

    def _on_signal(self, number: int, frame: object) -> None:
        # A signal handler may interrupt any code; run the reload on the reactor.
        self._reactor.callFromThread(self.hang_up)
        # Call the handler of another service in the same process, too.
        if callable(self._before):
            self._before(number, frame)

    def hang_up(self) -> None:
        """Reload, or stop the reactor if the terminal was closed."""
        if self._before != signal.SIG_IGN and _terminal_is_closed():
            self._log.info("Received SIGHUP: the terminal was closed, stopping")
            self._reactor.stop()
        else:
            self.reload()

    def reload(self) -> None:
        """Reopen the log file and reload all certificates. Log failures and keep what is loaded."""
        self._supervision.reloading()
        try:
            self._reopen()
            self._log.info(
                "Received SIGHUP: reopened the log file, reloading certificates; other settings "
                "take effect at the next start"
            )
            reload_certificates(self._endpoints)
        finally:
            workers = succeed(None) if self._reload_workers is None else self._reload_workers()
            workers.addCallback(lambda _: self._supervision.ready())

    def _reopen(self) -> None:
        if self._reopen_log is None:
            return
        try:
            self._reopen_log()
        except OSError as error:
            self._log.error("Could not reopen the log file: {reason}", reason=str(error))


def reload_certificates(endpoints: Iterable[TLSEndpoint]) -> None:
    """Reload the certificates of endpoints. Log failures and keep what is loaded."""
    for endpoint in endpoints:
        try:
            endpoint.reload()
        except UnusableCertificate as unusable:
            _log.error(
                "Could not reload the certificate of {endpoint}, the previous one stays in use: "
                "{reason}",
                endpoint=endpoint.text,
                reason=str(unusable),
            )
        else:
            _log.info("Reloaded the certificate of {endpoint}", endpoint=endpoint.text)


def _terminal_is_closed() -> bool:
    """Return whether a standard stream of this process is a closed terminal."""
    for descriptor in (0, 1, 2):
        try:
            os.tcgetpgrp(descriptor)
        except OSError as error:
            # Other files cause ENOTTY, a closed descriptor EBADF.
            if error.errno == errno.EIO:
                return True
    return False
