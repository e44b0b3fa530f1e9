"""Roles of workers: the owner has the store, fronts serve HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from msgspec import structs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from durable_streams_tw import clocks
from durable_streams_tw.concurrency import stop_all
from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.service import process_tuning
from durable_streams_tw.service.assembly import assemble, within_file_limit
from durable_streams_tw.service.configuration import Configuration, ConfigurationError
from durable_streams_tw.service.listening import endpoints, tls_endpoints
from durable_streams_tw.service.port_announcer import why_not_open
from durable_streams_tw.service.ports import Ports
from durable_streams_tw.service.reload import reload_certificates
from durable_streams_tw.service.sources import command_line
from durable_streams_tw.service.startup import CannotStart
from durable_streams_tw.service.workers.limits import USAGE_PERIOD
from durable_streams_tw.service.workers.messages import (
    AllSamples,
    Assignment,
    OtherUsage,
    OwnerReady,
    SamplesRequest,
    ToSupervisor,
    ToWorker,
    WebhookErrors,
)
from durable_streams_tw.service.workers.shared_sockets import InheritedPorts
from durable_streams_tw.service.workers.usage import UsageReporter
from durable_streams_tw.service.workers.worker_process import CONTROL
from durable_streams_tw.storage.api import Stats
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.remote.store import RemoteStore
from durable_streams_tw.telemetry.metric_samples import Samples, total_samples
from durable_streams_tw.telemetry.metrics import Exposition, TotalMetrics

Send = Callable[[ToSupervisor], None]


class Role(Protocol):
    """Work of one worker."""

    webhook_errors: Mapping[str, str]
    """Last errors of webhook calls by id of the subscription."""

    def start(self) -> Deferred[None]:
        """Begin to serve."""

    def stop(self) -> Deferred[None]:
        """Finish what is in progress, and end."""

    def reload(self) -> None:
        """Reload certificates."""

    def received(self, message: ToWorker) -> None:
        """Process any other message of the supervisor."""

    def samples(self) -> Deferred[Samples]:
        """Return the current metrics of this process."""


def configuration_of(assignment: Assignment) -> Configuration:
    """Return the settings of the server."""
    return Configuration([command_line(assignment.given)])


def assume(assignment: Assignment, reactor: Any, send: Send) -> Role:
    """Return the role that is assigned. Raises `ConfigurationError`."""
    clocks.make_monotonic(reactor)
    configuration = configuration_of(assignment)
    if assignment.role == "owner":
        return OwnerRole(configuration, assignment, reactor)
    return FrontRole(configuration, assignment, reactor, send)


def problems_of(failure: Failure) -> tuple[str, ...] | None:
    """Return messages about a failed start, None if it failed because of a bug."""
    error = failure.value
    if isinstance(error, ConfigurationError):
        return error.problems
    if isinstance(error, CannotStart | StoreUnusable):
        return (str(error),)
    if isinstance(error, CannotListenError):
        return (why_not_open(error),)
    return None


def share_of(settings: Settings, workers: int) -> Settings:
    """Return the settings of one of several fronts, which share the limits on memory.

    Each has room for at least one body.
    """
    return structs.replace(
        settings,
        max_body_memory=max(settings.max_body, settings.body_memory // workers),
        max_unread_memory=max(1, settings.max_unread_memory // workers),
    )


class OwnerRole:
    """Store, subscriptions and webhook calls, for the fronts."""

    def __init__(self, configuration: Configuration, assignment: Assignment, reactor: Any) -> None:
        process_tuning.raise_file_limit()
        self._streams = streams = DurableStreams(
            configuration["data-dir"],
            settings=_at_start(configuration.settings, assignment),
            reactor=reactor,
        )
        self._stats = streams.server_stats()
        self.webhook_errors = streams.webhook_errors
        self._exposition = Exposition(self._stats)
        self._server = streams.store_server()
        self._address = assignment.address
        self._reactor = reactor
        self._port: Any = None
        _inherited(assignment)
        for notice in assignment.notices:
            streams.set_endpoint(notice.url, notice.loopback)

    def start(self) -> Deferred[None]:
        """Open the store, and accept connections of fronts."""
        self._streams.startService()
        with suppress(FileNotFoundError):
            # Left by an owner that was killed.
            os.unlink(self._address)
        self._port = self._reactor.listenUNIX(self._address, self._server, mode=0o600)
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """Refuse fronts, finish accepted commands, and close the store."""
        return stop_all(self._port.stopListening, self._server.stop, self._streams.stopService)

    def reload(self) -> None:
        """Do nothing: the owner has no certificates."""

    def received(self, message: ToWorker) -> None:
        """Do nothing: other messages are for fronts."""

    def samples(self) -> Deferred[Samples]:
        """Return the metrics of the store."""
        levels: Deferred[Stats | None] = self._stats.store.stats()
        return levels.addCallback(self._exposition.samples)


class FrontRole:
    """HTTP server, whose store is the owner's or a database."""

    def __init__(
        self, configuration: Configuration, assignment: Assignment, reactor: Any, send: Send
    ) -> None:
        self._send = send
        self._number = 0
        self._requests: dict[int, Deferred[Samples]] = {}
        settings = share_of(_at_start(configuration.settings, assignment), assignment.workers)
        self._store = RemoteStore(reactor, assignment.address) if assignment.address else None
        made = assemble(
            configuration,
            reactor,
            # One front logs a limit that holds for all.
            within_file_limit(settings, quiet=not assignment.first),
            store=self._store,
            metrics=TotalMetrics(self._fetch),
        )
        self._streams = made.streams
        self.webhook_errors = made.streams.webhook_errors
        self._tracing = made.tracing
        self._stats = made.stats
        self._exposition = Exposition(made.stats)
        for notice in assignment.notices:
            made.streams.set_endpoint(notice.url, notice.loopback)
        listening = endpoints(configuration, InheritedPorts(reactor, _inherited(assignment)))
        self._certificates = tls_endpoints(listening)
        self._ports = Ports(listening, made.site, made.streams, reactor)
        authorized = made.streams.authorized_handler
        self._usage = UsageReporter(
            made.site.limiter,
            settings.max_connections,
            None if authorized is None else authorized.rates,
            clocks.monotonic_timers(reactor).seconds,
        )
        self._usage_reports = LoopingCall(self._report_usage)

    def start(self) -> Deferred[None]:
        """Connect to the owner, then serve the ports."""
        if self._tracing is not None:
            self._tracing.startService()
        self._streams.startService()
        connected = succeed(None) if self._store is None else self._store.when_connected()
        return connected.addCallback(self._serve)

    def _serve(self, _: None) -> None:
        self._ports.startService()
        self._usage_reports.start(USAGE_PERIOD)

    def stop(self) -> Deferred[None]:
        """Stop listening, end live reads and close connections."""
        self._usage_reports.stop()
        after = () if self._tracing is None else (self._tracing.stopService,)
        return stop_all(self._ports.stopService, self._streams.stopService, *after)

    def reload(self) -> None:
        """Reload the certificates of the endpoints."""
        reload_certificates(self._certificates)

    def received(self, message: ToWorker) -> None:
        """Take the metrics of all workers or the use of limits by the others, or connect again."""
        if isinstance(message, AllSamples):
            request = self._requests.pop(message.number, None)
            if request is not None:
                request.callback(total_samples(message.workers, message.ended))
        elif isinstance(message, OtherUsage):
            self._usage.update(message)
        elif self._store is not None and isinstance(message, WebhookErrors):
            self._streams.set_webhook_errors(message.errors)
        elif self._store is not None and isinstance(message, OwnerReady):
            self._store.connect_now()

    def samples(self) -> Deferred[Samples]:
        """Return the metrics of this process."""
        levels: Deferred[Stats | None] = succeed(None)
        if self._store is None:
            levels = self._stats.store.stats()
        return levels.addCallback(self._exposition.samples)

    def _fetch(self) -> Deferred[Samples]:
        self._number += 1
        self._requests[self._number] = fetched = Deferred[Samples]()
        self._send(SamplesRequest(self._number))
        return fetched

    def _report_usage(self) -> None:
        usage = self._usage.report()
        if usage is not None:
            self._send(usage)


def _inherited(assignment: Assignment) -> list[int]:
    """Return the descriptors of the sockets to serve, and close the others."""
    descriptors = range(CONTROL + 1, CONTROL + 1 + assignment.inherited)
    served = [descriptors[position] for position in assignment.served]
    for descriptor in descriptors:
        if descriptor not in served:
            os.close(descriptor)
    return served


def _at_start(settings: Settings, assignment: Assignment) -> Settings:
    """Return the settings for a restart: the key is rotated at the start of the server only."""
    return settings if assignment.first else structs.replace(settings, rotate_webhook_key=False)
