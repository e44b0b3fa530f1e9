"""Makes the service of ``twistd durable-streams``."""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService, MultiService
from twisted.logger import Logger

from durable_streams_tw.server.embedded import DurableStreams
from durable_streams_tw.service.options import Options
from durable_streams_tw.service.ports import Ports
from durable_streams_tw.service.startup import Mouth, Startup

__all__ = ["Options", "makeService"]

_log = Logger()


def makeService(options: Options) -> IService:
    """The service that the options ask for: the streams, then the ports they are reached by."""
    # The one that twistd runs.
    from twisted.internet import reactor

    data_dir: str | None = options["data-dir"]
    root: bytes = options["root"]
    streams = DurableStreams(data_dir, settings=options.settings, reactor=reactor)
    site = streams.site(root) if options["no-fast-channel"] else streams.door(root)
    twistd: Any = getattr(options, "parent", None)
    mouth = Mouth(keep=twistd is not None and not twistd["nodaemon"])

    def started() -> None:
        mouth.shut()
        if data_dir is None:
            _log.warn("Without --data-dir streams are in memory only: nothing is kept")
        else:
            _log.info("Streams are kept in {directory}", directory=data_dir)

    service = Startup(mouth.say, started)
    ports = Ports(options.endpoints, site, streams, root, reactor)
    for part in (streams, ports):
        MultiService.addService(service, part)
    return service
