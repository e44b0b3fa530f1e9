"""Rate-limited log of connections closed for lack of file descriptors.

Twisted logs at least two lines for each such connection, so a client could fill the disk with the
log. `FileExhaustion` logs at most one line per minute, with a count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet import tcp
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogPublisher
from zope.interface import implementer

#: Minimum time between two log lines, in seconds.
QUIET: Final = 60.0

# Substrings of these log events; each event of the second group is about one connection.
_ABOUT_FILES: Final = ("EMFILE", "Could not accept new connection")
_OF_ONE: Final = ("Closed socket", "Could not accept new connection")


@implementer(ILogObserver)
class FileExhaustion:
    """Observer of the log events of `tcp.Port`, which passes other events on.

    ``seconds`` is a monotonic clock.
    """

    _log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._count = 0
        self._logged_at: float | None = None

    def __call__(self, event: LogEvent) -> None:
        """Count an event about file descriptors, or pass the event on."""
        text = event.get("log_format") or ""
        if not any(part in text for part in _ABOUT_FILES):
            globalLogPublisher(event)
            return
        if not any(part in text for part in _OF_ONE):
            return
        self._count += 1
        now = self._seconds()
        if self._logged_at is None or now - self._logged_at >= QUIET:
            self._log.warn(
                "No file descriptor is free: {count} connections were closed without a response. "
                "Raise the limit (ulimit -n, LimitNOFILE=) or lower max-connections",
                count=self._count,
            )
            self._logged_at, self._count = now, 0

    def watch(self, port: Any) -> None:
        """Observe the log events of a TCP port."""
        if isinstance(port, tcp.Port):
            given: Any = port
            given._logger = Logger(namespace=tcp.__name__, observer=self)
