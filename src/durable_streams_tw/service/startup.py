"""Ordered startup and shutdown of services, and reporting of startup errors.

If a service raises while it starts, twistd exits and Python prints the traceback. For expected
errors, such as a port in use, the group prints one line on stderr instead and exits with status 1.
A daemon has closed its stderr by the time its services start, so `StderrReporter` duplicates it
earlier.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, TypeVar

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from durable_streams_tw.concurrency import stop_all
from durable_streams_tw.service import process_tuning
from durable_streams_tw.storage.errors import StoreUnusable

T = TypeVar("T")

#: Format of the log event about a failed start.
NOT_STARTED: Final = "Cannot start: {reason}"


class CannotStart(Exception):
    """The service cannot start because of its environment; the message says why."""


def when_running(
    service: Service, reactor: Any, call: Callable[..., object], *arguments: object
) -> None:
    """Make a call when the reactor runs, unless the service has stopped before.

    For reports of the start: a signal that one causes would end the process without `stopService`
    before the reactor runs.
    """
    reactor.callWhenRunning(lambda: service.running and call(*arguments))


def stop_once(reactor: Any) -> None:
    """Have a reactor ignore all calls of ``stop`` after the first.

    Only for a process that runs nothing but this server: each signal is a call, also while the
    server stops, and the reactor would log an error.
    """
    stop = reactor.stop

    def stop_unless_stopped() -> None:
        with suppress(ReactorNotRunning):
            stop()

    reactor.stop = stop_unless_stopped


class ServiceGroup(MultiService):
    """Services that start in order, and stop one by one in reverse order.

    ``report`` is called with the message if they cannot start, ``started`` when they have started.
    """

    _log = Logger()

    def __init__(self, report: Callable[[str], None], started: Callable[[], None]) -> None:
        MultiService.__init__(self)
        self._report = report
        self._started = started
        self.log: ILogObserver | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Join an application, and set its log observer to ``log`` if that is set."""
        if self.log is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.log)
        MultiService.setServiceParent(self, parent)

    def privilegedStartService(self) -> None:
        """Open ports and other privileged resources. Raises `CannotStart`."""
        with self._reporting_errors():
            MultiService.privilegedStartService(self)

    def startService(self) -> None:
        """Start all services. Raises `CannotStart`."""
        process_tuning.tune()
        with self._reporting_errors():
            MultiService.startService(self)
        self._started()

    def stopService(self) -> Deferred[None]:
        """Stop all services. The Deferred fires when the last one has stopped."""
        Service.stopService(self)
        self._log.info("The server is stopping")
        stopped = stop_all(*[service.stopService for service in reversed(list(self))])

        def log(result: T) -> T:
            self._log.info("The server has stopped")
            return result

        return stopped.addBoth(log)

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        try:
            yield
        except (CannotStart, StoreUnusable) as error:
            message = str(error)
            self._log.critical(NOT_STARTED, reason=message)
            self._report(message)
            sys.excepthook = _hide_traceback
            raise CannotStart("see the error above and the log") from None


def _hide_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, CannotStart):
        sys.__excepthook__(kind, error, trace)


class StderrReporter:
    """Reporter of startup errors on stderr.

    ``keep`` duplicates stderr now, for a process that is about to become a daemon. ``line`` makes
    a line of a message.
    """

    def __init__(
        self, *, keep: bool, line: Callable[[str], str] = "durable-streams: {}".format
    ) -> None:
        self._line = line
        self._descriptor = os.dup(2) if keep else 2

    def report(self, message: str) -> None:
        """Write a message to stderr."""
        os.write(self._descriptor, f"{self._line(message)}\n".encode())

    def close(self) -> None:
        """Close the duplicate of stderr, so that a daemon does not keep the terminal open."""
        if self._descriptor != 2:
            os.close(self._descriptor)
            self._descriptor = 2
