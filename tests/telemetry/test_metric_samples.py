"""Tests of the metrics of several processes together."""

from __future__ import annotations

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.telemetry.metric_samples import (
    Samples,
    add_ended,
    collect_samples,
    exposition,
    total_samples,
)


def counter(name: str, **values: float) -> Metric:
    metric = CounterMetricFamily(name, "A counter.", labels=("result",))
    for label, value in values.items():
        metric.add_metric((label,), value)
    return metric


def samples(commits: float, connections: float, cpu: float, buckets: tuple[int, int]) -> Samples:
    """Return the samples of one worker."""
    histogram = HistogramMetricFamily("durable_streams_batch_size", "Batches.")
    histogram.add_metric((), [("1.0", buckets[0]), ("+Inf", buckets[1])], 7.0)
    return collect_samples(
        (
            counter("durable_streams_commands", done=commits, refused=1),
            GaugeMetricFamily("durable_streams_connections", "Connections.", connections),
            GaugeMetricFamily("durable_streams_disk_free_bytes", "Free.", 100 + connections),
            CounterMetricFamily("durable_streams_process_cpu_seconds", "CPU.", cpu),
            histogram,
        )
    )


class TotalSamplesTests(SynchronousTestCase):
    def lines(self, **workers: Samples) -> list[str]:
        """Return the values of the exposition of workers."""
        ended = workers.pop("ended", ())
        text, content_type = exposition(total_samples(workers, ended), "")
        self.assertTrue(content_type.startswith("text/plain"))
        return [line for line in text.decode().splitlines() if not line.startswith("#")]

    def test_values_of_workers_are_added(self) -> None:
        """Counters, histograms and gauges are added up, except gauges of what they share."""
        lines = self.lines(a=samples(5, 3, 0.5, (1, 2)), b=samples(7, 4, 0.25, (0, 3)))
        self.assertEqual(
            lines,
            [
                'durable_streams_commands_total{result="done"} 12.0',
                'durable_streams_commands_total{result="refused"} 2.0',
                "durable_streams_connections 7.0",
                "durable_streams_disk_free_bytes 104.0",
                'durable_streams_process_cpu_seconds_total{worker="a"} 0.5',
                'durable_streams_process_cpu_seconds_total{worker="b"} 0.25',
                'durable_streams_batch_size_bucket{le="1.0"} 1.0',
                'durable_streams_batch_size_bucket{le="+Inf"} 5.0',
                "durable_streams_batch_size_count 5.0",
                "durable_streams_batch_size_sum 14.0",
            ],
        )

    def test_totals_do_not_fall(self) -> None:
        """After a restart the counters of the old process still count, its gauges do not."""
        ended = add_ended((), samples(5, 3, 0.5, (1, 2)))
        ended = add_ended(ended, samples(5, 3, 0.5, (1, 2)))
        lines = self.lines(a=samples(1, 2, 0.1, (0, 1)), ended=ended)
        self.assertIn('durable_streams_commands_total{result="done"} 11.0', lines)
        self.assertIn("durable_streams_batch_size_count 5.0", lines)
        self.assertIn("durable_streams_connections 2.0", lines)
        self.assertIn('durable_streams_process_cpu_seconds_total{worker="a"} 0.1', lines)
        self.assertEqual(len([line for line in lines if "cpu" in line]), 1)
