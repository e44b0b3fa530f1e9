"""Prometheus metrics at ``/-/metrics``, read from the server at each scrape.

The counters belong to the server; this module has no copy. It uses a registry of its own, separate
from that of an embedding application.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
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
        sizes = dict.fromkeys(families.RESULTS, 0)
        calls = dict.fromkeys(families.CALL_RESULTS, 0)
        live = {"long_poll": observed.long_polls.count, "sse": observed.broadcaster.count}
        yield _metric(families.COMMANDS, {**commands, **meter.commands})
        yield _metric(families.BODY_BYTES, {**sizes, **meter.sizes})
        yield _metric(families.REFUSALS, meter.refusals)
        yield _metric(families.WEBHOOK_CALLS, {**calls, **observed.calls})
        yield _metric(families.CONNECTIONS, len(observed.connections()))
        yield _metric(families.SUBSCRIBERS, live)
        yield _metric(families.LAGGING, observed.broadcaster.lagging)
        yield _metric(families.DROPPED, observed.broadcaster.dropped)
        yield _metric(families.FOLLOWED, observed.registry.count)
        yield _metric(families.BUILD, {__version__: 1})
        if not observed.on_disk:
            return
        yield from _group(families.BATCHES, meter)
        if levels is None:
            return
        yield from _group(families.QUEUE, levels)
        if isinstance(levels, NodeStats):
            restarts = {"locks": levels.restarts, "conflict": levels.repeats}
            yield _metric(families.RESTARTS, restarts)
            yield from _group(families.DATABASE, levels)
        else:
            yield from _group(families.ON_DISK, levels)


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
        return resources.respond_later(request, response)

    def _levels(self) -> Deferred[Stats | None]:
        observed = self._observed
        levels: Deferred[Stats | None] = Deferred()
        # The statistics may arrive after the timeout has fired the Deferred.
        observed.store.stats().addCallbacks(
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
        return resources.respond_later(request, response)


def _page(exposition: Exposition, accept: str, levels: Stats | None) -> Response:
    return _text_page(*exposition.text(accept, levels))


def _text_page(text: bytes, content_type: str) -> Response:
    return resources.page(200, content_type.encode("ascii"), text)


def _without(_: object, timeout: float) -> None:
    """Continue without levels after the timeout."""


def _group(group: Iterable[Family], statistics: object) -> Iterator[Any]:
    """Yield the metrics of a group, except those that have no value at the moment."""
    for family in group:
        value = getattr(statistics, family.source) if family.source else None
        if value is not None:
            yield _metric(family, value)


def _metric(family: Family, value: Any) -> Any:
    """Return a metric with its value: a number, a `Histogram`, or numbers by labels."""
    kinds: dict[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    name = f"{families.NAMESPACE}_{family.name}"
    made = kinds[family.kind](name, family.meaning, labels=family.labels)
    if isinstance(value, Histogram):
        bounds = map(str, (*value.bounds, "+Inf"))
        made.add_metric((), list(zip(bounds, accumulate(value.counts), strict=True)), value.total)
    elif isinstance(value, Mapping):
        for labels, number in value.items():
            made.add_metric((labels,) if isinstance(labels, str) else labels, number)
    else:
        made.add_metric((), value)
    return made
