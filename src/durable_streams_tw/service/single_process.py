"""Service of a server with one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.interfaces import IStreamServerEndpoint

from durable_streams_tw.service.assembly import assemble
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.listening import tls_endpoints
from durable_streams_tw.service.port_announcer import PortAnnouncer, storage_name
from durable_streams_tw.service.ports import Ports
from durable_streams_tw.service.preload import preload
from durable_streams_tw.service.reload import ReloadService
from durable_streams_tw.service.startup import ServiceGroup, StderrReporter
from durable_streams_tw.service.systemd_notify import SystemdNotifier


def build_single_process(
    configuration: Configuration,
    endpoints: list[IStreamServerEndpoint],
    reporter: StderrReporter,
    reactor: Any,
    greet: Callable[[str], None] | None,
    reopen_log: Callable[[], None] | None,
) -> ServiceGroup:
    """Return the service of a server with one process: see `make_service.build_service`."""
    preload()
    made = assemble(configuration, reactor, configuration.settings)
    service = ServiceGroup(reporter.report, reporter.close)
    announcer = PortAnnouncer(
        configuration["root"],
        greet,
        storage=storage_name(configuration),
        open_to_all=made.open_to_all,
    )
    ports = Ports(endpoints, made.site, made.streams, reactor, announcer)
    supervision = SystemdNotifier.of(reactor)
    reloading = ReloadService(tls_endpoints(endpoints), reactor, supervision, reopen_log)
    if made.tracing is not None:
        # Added before the streams, and therefore stopped after them.
        MultiService.addService(service, made.tracing)
    # The SIGHUP handler first: without it a SIGHUP after the port is open kills the process.
    for part in (reloading, made.streams, ports, supervision):
        MultiService.addService(service, part)
    return service
