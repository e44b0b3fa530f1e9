"""Construction of the service of ``twistd durable-streams`` and of the ``run`` command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, textFileLogObserver
from twisted.python.logfile import LogFile

from durable_streams_tw import clocks
from durable_streams_tw.service.assembly import assemble, log_storage
from durable_streams_tw.service.configuration import Configuration, ConfigurationError
from durable_streams_tw.service.listening import tls_endpoints
from durable_streams_tw.service.ports import PortAnnouncer, Ports
from durable_streams_tw.service.reload import ReloadService
from durable_streams_tw.service.startup import ServiceGroup, StderrReporter
from durable_streams_tw.service.systemd_notify import SystemdNotifier
from durable_streams_tw.service.twistd_options import Options
from durable_streams_tw.telemetry.logs import JSONLog, open_json_log

__all__ = ["Options", "build_service", "makeService"]


def makeService(options: Options) -> ServiceGroup:
    """Return the service for the command line of twistd."""
    twistd: Any = options.parent
    reporter = StderrReporter(keep=twistd is not None and not twistd["nodaemon"])
    try:
        log, reopen_log = _log_of(twistd, options.configuration["log-format"])
        service = build_service(
            options.configuration, options.endpoints, reporter, reopen_log=reopen_log
        )
        service.log = log
        return service
    except ConfigurationError as bad:
        for problem in bad.problems:
            reporter.report(problem)
        sys.exit(1)


def _log_of(
    twistd: Mapping[str, Any] | None, log_format: str
) -> tuple[ILogObserver | None, Callable[[], None] | None]:
    """Return a log observer that replaces twistd's, and a function that reopens its file.

    The observer is None if twistd's is used, the function is None if the log is not a file.
    """
    if twistd is None or twistd.get("logger") or twistd.get("syslog"):
        return None, None
    path = twistd["logfile"]
    to_stdout = path == "-" or (not path and twistd["nodaemon"])
    if log_format == "json":
        if to_stdout:
            log: ILogObserver = JSONLog(1)
            return log, None
        json_log = open_json_log(path or "twistd.log")
        log = json_log
        return log, json_log.reopen
    if to_stdout:
        return None, None
    # Open the log file here, because twistd does not expose the one that it opens.
    file = LogFile.fromFullPath(path or "twistd.log")
    return textFileLogObserver(file), file.reopen


def build_service(
    configuration: Configuration,
    endpoints: list[IStreamServerEndpoint],
    reporter: StderrReporter,
    greet: Callable[[str], None] | None = None,
    reopen_log: Callable[[], None] | None = None,
) -> ServiceGroup:
    """Return the service for the settings: store, ports, reload and systemd notification.

    ``greet`` is called with the URL of the streams at each port; without it the log says where
    streams are stored. ``reopen_log`` is called on SIGHUP. Raises `ConfigurationError`.
    """
    from twisted.internet import reactor

    # First of all: later calls would mix two clocks in one reactor.
    clocks.make_monotonic(reactor)
    if configuration["workers"] > 1:
        # Imported here: a server of one process does not need it.
        from durable_streams_tw.service.workers.supervisor import build_supervisor

        return build_supervisor(configuration, reporter, reactor, greet, reopen_log)
    made = assemble(configuration, reactor, configuration.settings)

    def started() -> None:
        reporter.close()
        if greet is None:
            log_storage(configuration)

    service = ServiceGroup(reporter.report, started)
    announcer = PortAnnouncer(configuration["root"], greet, open_to_all=made.open_to_all)
    ports = Ports(endpoints, made.site, made.streams, reactor, announcer)
    supervision = SystemdNotifier.of()
    reloading = ReloadService(tls_endpoints(endpoints), reactor, supervision, reopen_log)
    if made.tracing is not None:
        # Added before the streams, and therefore stopped after them.
        MultiService.addService(service, made.tracing)
    # The SIGHUP handler first: without it a SIGHUP after the port is open kills the process.
    for part in (reloading, made.streams, ports, supervision):
        MultiService.addService(service, part)
    return service
