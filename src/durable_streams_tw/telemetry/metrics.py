"""Prometheus metrics at ``/-/metrics``, read from the server at each scrape.

The counters belong to the server; this module has no copy. It uses a registry of its own, separate
from that of an embedding application.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from twisted.internet.defer import Deferred
from twisted.web.server import Request

from durable_streams_tw import __version__
from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.operators import resources
from durable_streams_tw.http.operators.server_stats import ServerStats
from durable_streams_tw.storage.api import NodeStats, Stats
from durable_streams_tw.storage.metrics import Histogram
from durable_streams_tw.telemetry import families
from durable_streams_tw.telemetry.deferred_response import respond_later
from durable_streams_tw.telemetry.families import Family
from durable_streams_tw.telemetry.metric_samples import Samples, collect_samples, exposition

#: Maximum time that a scrape waits for the statistics of the store (seconds).
LEVELS_TIMEOUT: Final = 2.0


class Exposition:
    """Exposition of the metrics of one server as text."""

    def __init__(self, observed: ServerStats) -> None:
        self._observed = observed
        self._registry = CollectorRegistry()
        self._levels: Stats | None = None
        ProcessCollector(namespace=families.NAMESPACE, registry=self._registry)
        collector: Any = self
        self._registry.register(collector)

    def text(self, accept: str, levels: Stats | None) -> tuple[bytes, str]:
        """Return the exposition in the format that the client prefers, and its content type."""
        self._levels = levels
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def samples(self, levels: Stats | None) -> Samples:
        """Return the metrics as plain values."""
        self._levels = levels
        return collect_samples(self._registry.collect())

    def describe(self) -> Iterable[Any]:
        """Return no metrics, so that registration does not read them."""
        return ()

    def collect(self) -> Iterator[Any]:
        """Yield all metrics with their current values, for the registry."""
        observed = self._observed
        meter, levels = observed.meter, self._levels
        commands = {
            (operation, result): 0
            for operation in families.OPERATIONS
            for result in families.RESULTS
        }
        yield _labelled(families.COMMANDS, {**commands, **meter.commands})
        yield _labelled(families.BODY_BYTES, {**dict.fromkeys(families.RESULTS, 0), **meter.sizes})
        yield _labelled(families.REFUSALS, meter.refusals)
        yield _labelled(
            families.WEBHOOK_CALLS, {**dict.fromkeys(families.CALL_RESULTS, 0), **observed.calls}
        )
        yield _single(families.CONNECTIONS, observed.connections)
        yield _labelled(
            families.SUBSCRIBERS,
            {"long_poll": observed.long_polls, "sse": observed.event_streams},
        )
        yield _single(families.LAGGING, observed.lagging)
        yield _single(families.DROPPED, observed.dropped)
        yield _single(families.FOLLOWED, observed.followed)
        yield _labelled(families.BUILD, {__version__: 1})
        if not observed.on_disk:
            return
        yield _histogram(families.BATCH_SIZE, meter.batch_size)
        yield _histogram(families.BATCH_SECONDS, meter.batch_seconds)
        yield _histogram(families.COMMIT_SECONDS, meter.commit_seconds)
        yield _histogram(families.QUEUE_SECONDS, meter.queue_seconds)
        yield _histogram(families.READ_WAIT_SECONDS, meter.read_wait_seconds)
        yield _single(families.COMMITS, meter.commits)
        yield _single(families.FAILED_BATCHES, meter.failures)
        if levels is None:
            return
        yield _single(families.QUEUED, levels.queued)
        yield _single(families.QUEUED_BYTES, levels.queued_bytes)
        if isinstance(levels, NodeStats):
            yield from _of_node(levels)
            return
        yield _single(families.WAL_BYTES, levels.wal_bytes)
        yield _single(families.LMDB_USED, levels.lmdb_used)
        yield _single(families.LMDB_FREE, max(0, levels.lmdb_map_size - levels.lmdb_used))
        yield _single(families.FILE_SIZE, levels.file_size)
        yield _single(families.DISK_FREE, levels.disk_free)
        yield _single(families.READERS, levels.readers)
        yield _single(families.READER_LAG, levels.reader_lag)


class Metrics(resources.OperatorResource):
    """Resource ``GET /-/metrics``."""

    def __init__(self, observed: ServerStats) -> None:
        resources.OperatorResource.__init__(self)
        self._observed = observed
        self._exposition: Exposition | None = None

    def show(self, request: Request) -> Any:
        """Respond with the metrics, without the store statistics if they time out."""
        accept = request.getHeader("accept") or ""
        response: Deferred[Any] = self._levels().addCallback(self._exposed, accept)
        return respond_later(request, response)

    def _levels(self) -> Deferred[Stats | None]:
        observed = self._observed
        levels: Deferred[Stats | None] = Deferred()
        # The statistics may arrive after the timeout has fired the Deferred.
        observed.levels().addCallbacks(
            lambda found: None if levels.called else levels.callback(found),
            lambda failure: None if levels.called else levels.errback(failure),
        )
        return levels.addTimeout(LEVELS_TIMEOUT, observed.reactor, _without)

    def _exposed(self, levels: Stats | None, accept: str) -> Response | Deferred[Response]:
        if self._exposition is None:
            made: Deferred[Exposition] = self._observed.in_thread(Exposition, self._observed)
            return made.addCallback(self._keep).addCallback(
                lambda exposition: _page(exposition, accept, levels)
            )
        return _page(self._exposition, accept, levels)

    def _keep(self, exposition: Exposition) -> Exposition:
        self._exposition = self._exposition or exposition
        return self._exposition


class TotalMetrics(resources.OperatorResource):
    """Resource ``GET /-/metrics`` of a server with several workers.

    ``fetch`` returns the metrics of all of them.
    """

    def __init__(self, fetch: Callable[[], Deferred[Samples]]) -> None:
        resources.OperatorResource.__init__(self)
        self._fetch = fetch

    def show(self, request: Request) -> Any:
        """Respond with the metrics."""
        accept = request.getHeader("accept") or ""
        response: Deferred[Any] = self._fetch().addCallback(
            lambda samples: _text_page(*exposition(samples, accept))
        )
        return respond_later(request, response)


def _page(exposition: Exposition, accept: str, levels: Stats | None) -> Response:
    return _text_page(*exposition.text(accept, levels))


def _text_page(text: bytes, content_type: str) -> Response:
    return resources.page(200, content_type.encode("ascii"), text)


def _of_node(levels: NodeStats) -> Iterator[Any]:
    yield _single(families.DEFERRED, levels.deferred)
    yield _labelled(families.RESTARTS, {"locks": levels.restarts, "conflict": levels.repeats})
    yield _single(families.RECONNECTS, levels.reconnects)
    yield _single(families.HINTS, levels.hints)
    yield _single(families.LATE, levels.late)
    if levels.nodes is not None:
        yield _single(families.NODES, levels.nodes)
    if levels.dead_rows is not None and levels.snapshot_age is not None:
        yield _single(families.DEAD_ROWS, levels.dead_rows)
        yield _single(families.SNAPSHOT_AGE, levels.snapshot_age)


def _without(_: object, timeout: float) -> None:
    """Continue without levels after the timeout."""


def _labelled(family: Family, values: Any) -> Any:
    made = _metric(family)
    for labels, value in values.items():
        made.add_metric((labels,) if isinstance(labels, str) else labels, value)
    return made


def _single(family: Family, value: float) -> Any:
    made = _metric(family)
    made.add_metric((), value)
    return made


def _histogram(family: Family, distribution: Histogram) -> Any:
    made = _metric(family)
    running = 0
    buckets = []
    for bound, count in zip((*distribution.bounds, "+Inf"), distribution.counts, strict=True):
        running += count
        buckets.append((str(bound), running))
    made.add_metric((), buckets, distribution.total)
    return made


def _metric(family: Family) -> Any:
    kinds: dict[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    name = f"{families.NAMESPACE}_{family.name}"
    return kinds[family.kind](name, family.meaning, labels=family.labels)
