"""Construction of the service of ``twistd durable-streams`` and of the ``run`` command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IStreamServerEndpoint

from durable_streams_tw import clocks
from durable_streams_tw.service.configuration import Configuration, ConfigurationError
from durable_streams_tw.service.log_output import twistd_log
from durable_streams_tw.service.startup import ServiceGroup, StderrReporter, stop_once
from durable_streams_tw.service.twistd_options import Options

__all__ = ["Options", "build_service", "makeService"]


def makeService(options: Options) -> ServiceGroup:
    """Return the service for the command line of twistd."""
    twistd: Any = options.parent
    reporter = StderrReporter(keep=twistd is not None and not twistd["nodaemon"])
    try:
        log, reopen_log = twistd_log(options.configuration, twistd)
        service = build_service(
            options.configuration, options.endpoints, reporter, reopen_log=reopen_log
        )
        service.log = log
        return service
    except ConfigurationError as bad:
        for problem in bad.problems:
            reporter.report(problem)
        sys.exit(1)


def build_service(
    configuration: Configuration,
    endpoints: list[IStreamServerEndpoint],
    reporter: StderrReporter,
    greet: Callable[[str], None] | None = None,
    reopen_log: Callable[[], None] | None = None,
) -> ServiceGroup:
    """Return the service for the settings: store, ports, reload and systemd notification.

    ``greet`` is called with the URL of the streams at each port. ``reopen_log`` is called on
    SIGHUP. Raises `ConfigurationError`.
    """
    from twisted.internet import reactor

    # First of all: later calls would mix two clocks in one reactor.
    clocks.make_monotonic(reactor)
    stop_once(reactor)
    # Imported here: the supervisor starts fast, because it imports nothing of the HTTP server.
    if configuration["workers"] > 1:
        from durable_streams_tw.service.workers.supervisor import build_supervisor

        return build_supervisor(configuration, reporter, reactor, greet, reopen_log)
    from durable_streams_tw.service.single_process import build_single_process

    return build_single_process(configuration, endpoints, reporter, reactor, greet, reopen_log)
