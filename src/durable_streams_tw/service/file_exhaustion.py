"""Log of connections that are closed because no file descriptor is free.

Twisted logs two lines and more for each of them, so a client that opens connections could fill the
disk with the log. Here there is one line a minute, with the number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet import tcp
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogPublisher
from zope.interface import implementer

#: How long nothing more is logged of it, in seconds.
QUIET: Final = 60.0

# What these events have in their texts; one of the second kind tells of one connection.
_ABOUT_FILES: Final = ("EMFILE", "Could not accept new connection")
_OF_ONE: Final = ("Closed socket", "Could not accept new connection")


@implementer(ILogObserver)
class FileExhaustion:
    """Observer of the log of `tcp.Port`. ``seconds`` tells a time that never goes back.

    All that is about other things goes on to the log as it is.
    """

    _log = Logger()

    def __init__(self, seconds: Callable[[], float], publisher: Any = globalLogPublisher) -> None:
        self._seconds = seconds
        self._publisher = publisher
        self._count = 0
        self._said: float | None = None

    def __call__(self, event: LogEvent) -> None:
        """Take an event of a port."""
        text = event.get("log_format") or ""
        if not any(part in text for part in _ABOUT_FILES):
            self._publisher(event)
            return
        if not any(part in text for part in _OF_ONE):
            return
        self._count += 1
        now = self._seconds()
        if self._said is None or now - self._said >= QUIET:
            self._log.warn(
                "No file descriptor is free: {count} connections were closed without an answer. "
                "Raise the limit (ulimit -n, LimitNOFILE=) or lower max-connections",
                count=self._count,
            )
            self._said, self._count = now, 0

    def watch(self, port: Any) -> None:
        """Take the events of a port, if it is one of TCP."""
        if isinstance(port, tcp.Port):
            given: Any = port
            given._logger = Logger(namespace=tcp.__name__, observer=self)
