"""Service as a foreground process without twistd, for ``run`` and ``dev``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

from zope.interface import provider

from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.listening import endpoints
from durable_streams_tw.service.log_output import stream_log
from durable_streams_tw.service.make_service import build_service
from durable_streams_tw.service.startup import NOT_STARTED, CannotStart, StderrReporter
from twisted import logger


def serve(
    configuration: Configuration,
    *,
    greet: Callable[[str], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    ``greet`` is called with the URL of the streams when the port is open; it may use stdout, which
    has the log otherwise. Raises `ConfigurationError`; prints other startup errors on stderr.
    """
    from twisted.internet import reactor

    running: Any = reactor
    listening = endpoints(configuration)
    written = stream_log(configuration, sys.stdout if greet is None else sys.stderr)
    observer: logger.ILogObserver = logger.FilteringLogObserver(written, [_not_reported])
    logger.globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    service = build_service(
        configuration, listening, StderrReporter(keep=False, line=_error_line), greet
    )
    try:
        service.privilegedStartService()
        service.startService()
    except CannotStart:
        return 1

    def stop() -> Any:
        # A second Ctrl-C kills the process without waiting for connections.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return service.stopService()

    running.addSystemEventTrigger("before", "shutdown", stop)
    running.run()
    # A second SIGTERM must not change the exit status while the interpreter ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return 0


def _error_line(message: str) -> str:
    """Return a startup error in the form of other errors of the command line."""
    return f"Error: {message[:1].upper()}{message[1:]}"


@provider(logger.ILogFilterPredicate)
def _not_reported(event: logger.LogEvent) -> Any:
    """Drop the event about a failed start, which stderr has already."""
    reported = event.get("log_format") == NOT_STARTED
    return logger.PredicateResult.no if reported else logger.PredicateResult.maybe
