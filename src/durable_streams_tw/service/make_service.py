"""Construction of the service of ``twistd durable-streams`` and of the ``run`` command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import structs
from twisted.application.service import MultiService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger, textFileLogObserver
from twisted.python.logfile import LogFile

from durable_streams_tw import clocks
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.service.certificates import TLSEndpoint
from durable_streams_tw.service.configuration import Configuration, ConfigurationError
from durable_streams_tw.service.database import database_settings
from durable_streams_tw.service.operator_tree import operator_tree
from durable_streams_tw.service.ports import Ports
from durable_streams_tw.service.process_tuning import connections_within, raise_file_limit
from durable_streams_tw.service.proxy_protocol import without_proxy
from durable_streams_tw.service.reload import ReloadService
from durable_streams_tw.service.startup import ServiceGroup, StderrReporter
from durable_streams_tw.service.systemd_notify import SystemdNotifier
from durable_streams_tw.service.twistd_options import Options
from durable_streams_tw.telemetry.logs import JSONLog, open_json_log

if TYPE_CHECKING:
    from durable_streams_tw.telemetry.tracing import Tracing

__all__ = ["Options", "build_service", "makeService"]

_log = Logger()


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


def _within_file_limit(settings: Settings) -> Settings:
    """Return the settings with no more connections than there may be open files."""
    files = raise_file_limit()
    most = connections_within(files, settings.max_connections)
    if settings.max_connections and most < settings.max_connections:
        _log.info(
            "{files} files may be open, so {most} connections are served, fewer than "
            "max-connections ({wanted}): raise the hard limit (ulimit -Hn, LimitNOFILE=)",
            files=files,
            most=most,
            wanted=settings.max_connections,
        )
    return structs.replace(settings, max_connections=most)


def _tracing(configuration: Configuration, reactor: Any) -> Tracing:
    try:
        from durable_streams_tw.telemetry.tracing import Tracing
    except ImportError as error:
        raise configuration.error(
            "tracing",
            f"{error.name} is not installed. Run: pip install 'durable-streams-tw[tracing]'",
        ) from None
    return Tracing(reactor)


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
    data_dir: str | None = configuration["data-dir"]
    root: bytes = configuration["root"]
    known: tuple[Any, ...] = ()
    if configuration["auth"]:
        # Imported here: servers without authentication do not need it.
        from durable_streams_tw.service.auth_checkers import checkers

        known = checkers(configuration)
    tracing = _tracing(configuration, reactor) if configuration["tracing"] else None
    database = database_settings(configuration)
    streams = DurableStreams(
        data_dir,
        database=database,
        settings=_within_file_limit(configuration.settings),
        reactor=reactor,
        checkers=known,
        wrap_handler=None if tracing is None else tracing.around,
    )
    door = streams.http_factory if configuration["fast-channel"] else streams.site
    site = door(root, operator_tree(configuration, streams))

    def started() -> None:
        reporter.close()
        if greet is not None:
            return
        if data_dir is not None:
            _log.info("Streams are stored in {directory}", directory=data_dir)
        elif database is None:
            _log.warn("Streams are in memory and are lost at exit: use --data-dir to store them")

    service = ServiceGroup(reporter.report, started)
    ports = Ports(endpoints, site, streams, root, reactor, greet, open_to_all=not known)
    inner = map(without_proxy, endpoints)
    tls = [endpoint for endpoint in inner if isinstance(endpoint, TLSEndpoint)]
    supervision = SystemdNotifier.of()
    reloading = ReloadService(tls, reactor, supervision, reopen_log)
    if tracing is not None:
        # Added before the streams, and therefore stopped after them.
        MultiService.addService(service, tracing)
    # The SIGHUP handler first: without it a SIGHUP after the port is open kills the process.
    for part in (reloading, streams, ports, supervision):
        MultiService.addService(service, part)
    return service
