"""Construction of the streams and their HTTP site from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs
from twisted.logger import Logger
from twisted.web.resource import IResource

from durable_streams_tw import clocks
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.handlers.streams import RequestHandler
from durable_streams_tw.http.http1.factory import Http1Factory
from durable_streams_tw.http.operators.server_stats import ServerStats
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.twisted_web.site import StreamSite
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.database import database_settings
from durable_streams_tw.service.operator_tree import operator_tree
from durable_streams_tw.service.process_tuning import connections_within, raise_file_limit
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.telemetry.access_log import AccessLog

if TYPE_CHECKING:
    from durable_streams_tw.telemetry.tracing import Tracing

_log = Logger()


class Assembly(Struct, frozen=True):
    """Parts of a server that are made from the settings.

    ``open_to_all`` says that requests need no credentials.
    """

    streams: DurableStreams
    site: StreamSite | Http1Factory
    stats: ServerStats
    tracing: Tracing | None
    open_to_all: bool


def assemble(
    configuration: Configuration,
    reactor: Any,
    settings: Settings,
    *,
    store: IStreamStore | None = None,
    metrics: IResource | None = None,
) -> Assembly:
    """Return the streams and their site. Raises `ConfigurationError`.

    ``store`` is a connection to the process that has the store, ``metrics`` the resource with the
    metrics of all processes.
    """
    checkers: tuple[Any, ...] = ()
    if configuration["auth"]:
        # Imported here: servers without authentication do not need it.
        from durable_streams_tw.service import auth_checkers

        checkers = auth_checkers.checkers(configuration)
    tracing = _tracing(configuration, reactor) if configuration["tracing"] else None
    access_log = None
    if configuration["access-log"]:
        seconds = clocks.monotonic_timers(reactor).seconds
        access_log = AccessLog(seconds, trust_proxy=settings.trust_proxy)

    def wrap(handler: RequestHandler) -> RequestHandler:
        for observer in (access_log, tracing):
            handler = handler if observer is None else observer.around(handler)
        return handler

    streams = DurableStreams(
        configuration["data-dir"],
        database=database_settings(configuration),
        settings=within_file_limit(settings),
        reactor=reactor,
        store=store,
        checkers=checkers,
        wrap_handler=wrap,
        begin_web_request=None if access_log is None else access_log.begin_web_request,
    )
    door = streams.http_factory if configuration["fast-channel"] else streams.site
    stats = streams.server_stats()
    site = door(configuration["root"], operator_tree(configuration, streams, stats, metrics))
    return Assembly(streams, site, stats, tracing, not checkers)


def within_file_limit(settings: Settings, *, quiet: bool = False) -> Settings:
    """Return the settings with no more connections than there may be open files.

    Log a message about fewer connections unless ``quiet``.
    """
    files = raise_file_limit()
    most = connections_within(files, settings.max_connections)
    if not quiet and settings.max_connections and most < settings.max_connections:
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
            f"{error.name} is not installed. Install durable-streams-tw with its extra 'tracing'",
        ) from None
    return Tracing(reactor)
