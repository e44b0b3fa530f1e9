"""The service as a process of its own, without twistd: what ``run`` and ``dev`` do."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    globalLogBeginner,
    textFileLogObserver,
)
from zope.interface import provider

from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.listening import endpoints
from durable_streams_tw.service.make_service import build_service
from durable_streams_tw.service.startup import CannotStart, StderrReporter


def serve(
    configuration: Configuration,
    *,
    greet: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit status.

    ``greet`` is called with the URL of the streams, once they can be reached. ``quiet`` keeps the
    log to warnings. Raises `ConfigurationError`; what else prevents the start is said on stderr.
    """
    from twisted.internet import reactor

    running: Any = reactor
    listening = endpoints(configuration)
    globalLogBeginner.beginLoggingTo([_observer(configuration, quiet)], redirectStandardIO=False)
    service = build_service(configuration, listening, StderrReporter(keep=False), greet)
    try:
        service.privilegedStartService()
        service.startService()
    except CannotStart:
        return 1

    def stop() -> Any:
        # Whoever has no patience and asks once more is not asked to wait.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return service.stopService()

    running.addSystemEventTrigger("before", "shutdown", stop)
    running.run()
    return 0


def _observer(configuration: Configuration, quiet: bool) -> ILogObserver:
    level = LogLevel.warn if quiet else LogLevel.info
    output = sys.stderr if quiet else sys.stdout
    written: ILogObserver
    if configuration["log-format"] == "json":
        # Here, for whoever reads with their own eyes need not wait for it.
        from durable_streams_tw.telemetry.logs import JSONLog

        written = JSONLog(output.fileno())
    else:
        written = textFileLogObserver(output)
    observer: ILogObserver = FilteringLogObserver(
        written,
        [_not_said, LogLevelFilterPredicate(defaultLogLevel=level)],
    )
    return observer


@provider(ILogFilterPredicate)
def _not_said(event: LogEvent) -> Any:
    """Why there is no start stands on stderr already."""
    return PredicateResult.no if "sentence" in event else PredicateResult.maybe
