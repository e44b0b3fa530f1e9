"""Makes the service of ``twistd durable-streams``, and of the ``run`` command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger

from durable_streams_tw.server.embedded import DurableStreams
from durable_streams_tw.service.certificates import TLSEndpoint
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.operating import operator_tree
from durable_streams_tw.service.options import Options
from durable_streams_tw.service.ports import Ports
from durable_streams_tw.service.reloading import Reloading
from durable_streams_tw.service.sources import BadConfiguration
from durable_streams_tw.service.startup import Mouth, Startup
from durable_streams_tw.service.supervision import Supervision

if TYPE_CHECKING:
    from durable_streams_tw.telemetry.tracing import Tracing

__all__ = ["Options", "makeService", "service_of"]

_log = Logger()


def makeService(options: Options) -> Startup:
    """The service that twistd's command line asks for."""
    twistd: Any = options.parent
    mouth = Mouth(keep=twistd is not None and not twistd["nodaemon"])
    try:
        service = service_of(options.configuration, options.endpoints, mouth)
        if twistd is not None and options.configuration["log-format"] == "json":
            service.log = _json_log(twistd)
        return service
    except BadConfiguration as bad:
        for problem in bad.problems:
            mouth.say(problem)
        sys.exit(1)


def _json_log(twistd: Mapping[str, Any]) -> ILogObserver:
    """A log where twistd would have logged in its own words."""
    from durable_streams_tw.telemetry.logs import JSONLog, to_file

    path = twistd["logfile"]
    if path == "-" or (not path and twistd["nodaemon"]):
        log: ILogObserver = JSONLog(1)
    else:
        log = to_file(path or "twistd.log")
    return log


def _tracing(configuration: Configuration, reactor: Any) -> Tracing:
    try:
        from durable_streams_tw.telemetry.tracing import Tracing
    except ImportError as error:
        raise configuration.refuse(
            "tracing",
            f"{error.name} is not installed: pip install 'durable-streams-tw[tracing]'",
        ) from None
    return Tracing(reactor)


def service_of(
    configuration: Configuration,
    endpoints: list[IStreamServerEndpoint],
    mouth: Mouth,
    greet: Callable[[str], None] | None = None,
) -> Startup:
    """The service that the settings ask for: the streams, then the ports they are reached by.

    ``greet`` is told the URL of the streams at each port; without it the log says where they are
    kept. Raises `BadConfiguration`.
    """
    # The one that runs.
    from twisted.internet import reactor

    data_dir: str | None = configuration["data-dir"]
    root: bytes = configuration["root"]
    known: tuple[Any, ...] = ()
    if configuration["auth"]:
        # Here, so that whoever asks for no tokens need not wait for what knows them.
        from durable_streams_tw.service.authenticating import checkers

        known = checkers(configuration)
    tracing = _tracing(configuration, reactor) if configuration["tracing"] else None
    streams = DurableStreams(
        data_dir,
        settings=configuration.settings,
        reactor=reactor,
        checkers=known,
        around=None if tracing is None else tracing.around,
    )
    door = streams.door if configuration["fast-channel"] else streams.site
    site = door(root, operator_tree(configuration, streams))

    def started() -> None:
        mouth.shut()
        if greet is not None:
            return
        if data_dir is None:
            _log.warn("Without --data-dir streams are in memory only: nothing is kept")
        else:
            _log.info("Streams are kept in {directory}", directory=data_dir)

    service = Startup(mouth.say, started)
    ports = Ports(endpoints, site, streams, root, reactor, greet)
    tls = [endpoint for endpoint in endpoints if isinstance(endpoint, TLSEndpoint)]
    supervision = Supervision.of()
    if tracing is not None:
        # Before the streams, and so stopped behind them.
        MultiService.addService(service, tracing)
    for part in (streams, ports, Reloading(tls, reactor, supervision), supervision):
        MultiService.addService(service, part)
    return service
