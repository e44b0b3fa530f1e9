"""Log of the process: format, level, and the file or stream that it is written to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from twisted.python.logfile import LogFile

from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.telemetry.logs import ACCESS_LOG, JSONLog, open_json_log
from twisted import logger

#: Namespaces of Twisted's own events, of which only warnings and errors are of use to operators.
_TWISTED: Final = ("twisted", "log_legacy")


def twistd_log(
    configuration: Configuration, twistd: Mapping[str, Any] | None
) -> tuple[logger.ILogObserver | None, Callable[[], None] | None]:
    """Return a log observer that replaces twistd's, and a function that reopens its file.

    The observer is None if twistd's is used (``--logger``, ``--syslog``), the function is None if
    the log is not a file.
    """
    if twistd is None or twistd.get("logger") or twistd.get("syslog"):
        return None, None
    path = twistd["logfile"]
    if path == "-" or (not path and twistd["nodaemon"]):
        # twistd has not replaced sys.stdout yet.
        return stream_log(configuration, sys.stdout), None
    # Open the log file here, because twistd does not expose the one that it opens.
    name = path or "twistd.log"
    if configuration["log-format"] == "json":
        json_log = open_json_log(name)
        return filtered(configuration, json_log), json_log.reopen
    file = LogFile.fromFullPath(name)
    return filtered(configuration, logger.textFileLogObserver(file)), file.reopen


def stream_log(configuration: Configuration, stream: TextIO) -> logger.ILogObserver:
    """Return a log observer that writes to a standard stream."""
    if configuration["log-format"] == "json":
        return filtered(configuration, JSONLog(stream.fileno()))
    return filtered(configuration, logger.textFileLogObserver(stream))


def filtered(configuration: Configuration, observer: logger.ILogObserver) -> logger.ILogObserver:
    """Return an observer that drops events below the configured level, but no accesses."""
    level = logger.LogLevel.lookupByName(configuration["log-level"])
    by_level = logger.LogLevelFilterPredicate(defaultLogLevel=level)
    for namespace in _TWISTED:
        by_level.setLogLevelForNamespace(namespace, max(level, logger.LogLevel.warn))
    by_level.setLogLevelForNamespace(ACCESS_LOG, logger.LogLevel.info)
    made: logger.ILogObserver = logger.FilteringLogObserver(observer, [by_level])
    return made
