"""Metrics as plain values that can be sent to another process, and their totals.

Counters, histograms and most gauges of several workers are added up. The largest value counts for
gauges that describe something that workers share. Metrics of a process, such as its CPU time, get
the label ``worker``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct, structs
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from durable_streams_tw.telemetry import families

_OF_PROCESS: Final = f"{families.NAMESPACE}_process_"
_SHARED: Final = frozenset(f"{families.NAMESPACE}_{family.name}" for family in families.SHARED)
_MONOTONIC: Final = frozenset(("counter", "histogram"))

Labels = tuple[tuple[str, str], ...]


class MetricSamples(Struct, frozen=True, array_like=True):
    """Samples of one metric: name, labels and value of each."""

    name: str
    kind: str
    meaning: str
    samples: tuple[tuple[str, Labels, float], ...]


Samples = tuple[MetricSamples, ...]


def collect_samples(collected: Iterable[Metric]) -> Samples:
    """Return the samples of prometheus_client's metrics."""
    return tuple(
        MetricSamples(
            metric.name,
            metric.type,
            metric.documentation,
            tuple(
                (one.name, tuple(sorted(one.labels.items())), one.value) for one in metric.samples
            ),
        )
        for metric in collected
    )


def add_ended(ended: Samples, last: Samples) -> Samples:
    """Add the last samples of a worker that ended to those of earlier ones.

    Only values that never fall are kept: without them, the totals would fall with each restart.
    """
    kept = (
        metric
        for metric in last
        if metric.kind in _MONOTONIC and not metric.name.startswith(_OF_PROCESS)
    )
    return _merged((*ended, *kept))


def total_samples(workers: Mapping[str, Samples], ended: Samples) -> Samples:
    """Return the metrics of a whole server from those of its workers."""
    labelled = (
        _with_worker(metric, worker) if metric.name.startswith(_OF_PROCESS) else metric
        for worker, samples in workers.items()
        for metric in samples
    )
    return _merged((*labelled, *ended))


def exposition(samples: Samples, accept: str) -> tuple[bytes, str]:
    """Return the text of metrics in the format that a client prefers, and its content type."""
    registry = CollectorRegistry()
    collector: Any = _Collector(samples)
    registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector:
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for metric in self._samples:
            made = Metric(metric.name, metric.meaning, metric.kind)
            for name, labels, value in metric.samples:
                made.add_sample(name, dict(labels), value)
            yield made


def _with_worker(metric: MetricSamples, worker: str) -> MetricSamples:
    return MetricSamples(
        metric.name,
        metric.kind,
        metric.meaning,
        tuple(
            (name, (*labels, ("worker", worker)), value) for name, labels, value in metric.samples
        ),
    )


def _merged(metrics: Iterable[MetricSamples]) -> Samples:
    first: dict[str, MetricSamples] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for metric in metrics:
        first.setdefault(metric.name, metric)
        found = values.setdefault(metric.name, {})
        shared = metric.name in _SHARED
        for name, labels, value in metric.samples:
            key = name, labels
            known = found.get(key)
            if known is None:
                found[key] = value
            else:
                found[key] = max(known, value) if shared else known + value
    return tuple(
        structs.replace(
            metric, samples=tuple((*key, value) for key, value in values[metric.name].items())
        )
        for metric in first.values()
    )
