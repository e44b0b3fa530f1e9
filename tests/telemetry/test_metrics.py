"""Tests of `durable_streams_tw.telemetry.metrics` by complete scrapes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.operators.resources import OperatorTree
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.metrics import Histogram, StoreMetrics
from durable_streams_tw.telemetry import families
from durable_streams_tw.telemetry.metrics import LEVELS_TIMEOUT, Metrics
from tests.http.server_fixture import MORNING, ROOT, Answer, Client, at_once
from tests.storage.durable.store_case import scratch_directory
from tests.storage.shared.inline_executor import InlineExecutor

_TOP = Path(__file__).parent.parent.parent
_OPENMETRICS = "application/openmetrics-text; version=1.0.0"
_SECRET = "c4n4ry"


class _Scraping(SynchronousTestCase):
    def serve(self, streams: DurableStreams) -> None:
        """Start a server with metrics."""
        streams.startService()
        self.addCleanup(lambda: self.successResultOf(streams.stopService()))
        self.streams = streams
        self.observed = streams.server_stats()
        tree = OperatorTree()
        tree.putChild(b"metrics", Metrics(self.observed))
        self.site = streams.site(b"v1/stream/", tree)

    def connect(self) -> Client:
        """Open a connection."""
        client = Client(self.site)
        self.addCleanup(client.leave)
        return client

    def ask(self, method: str, path: str, body: bytes | None = None, **header: str) -> Answer:
        """Send a request for a stream."""
        given = {"Content-Type": "text/plain"}
        given |= {name.replace("_", "-"): value for name, value in header.items()}
        return self.connect().ask(method, ROOT + path, given, body)

    def scrape(self) -> dict[str, float]:
        """Return all samples by name and labels."""
        answer = self.connect().ask("GET", "/-/metrics")
        self.assertEqual(answer.status, 200)
        return self.samples(answer)

    def samples(self, answer: Answer) -> dict[str, float]:
        """Parse the samples of a response."""
        found = {}
        for family in text_string_to_metric_families(answer.body.decode("utf-8")):
            self.assertTrue(family.documentation, family.name)
            for sample in family.samples:
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found


class MemoryMetricsTests(_Scraping):
    """Memory store."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        self.serve(DurableStreams(reactor=self.clock, in_thread=at_once))

    def test_initial_values(self) -> None:
        """Counters exist before the first event, so that rates are correct."""
        samples = self.scrape()
        for operation in families.OPERATIONS:
            for result in families.RESULTS:
                key = f"durable_streams_commands_total{{operation={operation},result={result}}}"
                self.assertEqual(samples[key], 0)
        for result in families.CALL_RESULTS:
            self.assertEqual(samples[f"durable_streams_webhook_calls_total{{result={result}}}"], 0)

    def test_writes(self) -> None:
        """Results of requests are counted."""
        self.ask("PUT", "a", b"123")
        self.ask("POST", "a", b"4567")
        self.ask("POST", "missing", b"4567")
        self.ask("DELETE", "a")
        samples = self.scrape()
        told = {
            key.removeprefix("durable_streams_"): value
            for key, value in samples.items()
            if key.split("{")[0].endswith("_total") and value and "process" not in key
        }
        self.assertEqual(
            told,
            {
                "commands_total{operation=append,result=done}": 1,
                "commands_total{operation=append,result=refused}": 1,
                "commands_total{operation=create,result=done}": 1,
                "commands_total{operation=delete,result=done}": 1,
                "body_bytes_total{result=done}": 7,
                "body_bytes_total{result=refused}": 4,
                "refusals_total{problem=stream-not-found}": 1,
            },
        )

    def test_readers(self) -> None:
        """Live readers are counted: connected, slow and dropped ones."""
        self.ask("PUT", "a", b"123")
        follower, waiter = self.connect(), self.connect()
        follower.request("GET", f"{ROOT}a?offset=-1&live=sse")
        waiter.request("GET", f"{ROOT}a?offset=now&live=long-poll")
        self.clock.pump([0] * 5)
        samples = self.scrape()
        self.assertEqual(samples["durable_streams_live_subscribers{kind=sse}"], 1)
        self.assertEqual(samples["durable_streams_live_subscribers{kind=long_poll}"], 1)
        self.assertEqual(samples["durable_streams_followed_streams"], 1)
        self.assertEqual(samples["durable_streams_lagging_subscribers"], 0)
        self.assertEqual(samples["durable_streams_connections"], len(self.site.connections))
        producer: Any = follower.transport.producer
        producer.pauseProducing()
        self.ask("POST", "a", b"456")
        self.clock.pump([0] * 5)
        self.assertEqual(self.scrape()["durable_streams_lagging_subscribers"], 1)
        follower.leave()
        samples = self.scrape()
        self.assertEqual(samples["durable_streams_lagging_subscribers"], 0)
        self.assertEqual(samples["durable_streams_dropped_subscribers_total"], 1)

    def test_webhooks(self) -> None:
        """Webhook deliveries are counted by result."""
        calls: Any = self.observed.calls
        calls["failed"] += 2
        self.assertEqual(self.scrape()["durable_streams_webhook_calls_total{result=failed}"], 2)

    def test_no_disk_metrics(self) -> None:
        """The memory store has no metrics of a disk."""
        names = {key.split("{")[0] for key in self.scrape()}
        on_disk = (*families.BATCHES, *families.QUEUE, *families.ON_DISK, *families.DATABASE)
        for family in on_disk:
            self.assertNotIn(family.full_name, names)

    def test_no_names(self) -> None:
        """Neither paths nor other strings of clients are in the metrics."""
        secret = {"Producer-Id": _SECRET, "Producer-Epoch": "0", "Producer-Seq": "0"}
        self.ask("PUT", _SECRET, _SECRET.encode())
        self.ask("POST", _SECRET, _SECRET.encode(), **secret, Authorization=f"Bearer {_SECRET}")
        self.ask("PUT", f"__ds/subscriptions/{_SECRET}", b'{"type": "%s"}' % _SECRET.encode())
        answer = self.connect().ask("GET", f"/-/metrics?{_SECRET}", {"X-A": _SECRET})
        self.assertEqual(answer.status, 200)
        self.assertNotIn(_SECRET.encode(), answer.body)

    def test_formats(self) -> None:
        """The text format is the default, OpenMetrics is sent on request; neither is cacheable."""
        self.ask("PUT", "a", b"123")
        classic = self.connect().ask("GET", "/-/metrics")
        self.assertEqual(classic.header["content-type"].partition(";")[0], "text/plain")
        self.assertEqual(classic.header["cache-control"], "no-store")
        answer = self.connect().ask("GET", "/-/metrics", {"Accept": _OPENMETRICS})
        kind = answer.header["content-type"].partition(";")[0]
        self.assertEqual(kind, "application/openmetrics-text")
        names = {
            family.name
            for family in openmetrics.text_string_to_metric_families(answer.body.decode("utf-8"))
        }
        self.assertIn("durable_streams_commands", names)

    def test_methods_and_names(self) -> None:
        """Only GET and HEAD are allowed."""
        self.assertEqual(self.connect().ask("POST", "/-/metrics", {}, b"").status, 405)
        self.assertEqual(self.connect().ask("GET", "/-/metrics/x").status, 404)

    def test_separate_registries(self) -> None:
        """Two servers of a process have separate metrics."""
        other = DurableStreams(reactor=self.clock, in_thread=at_once)
        other.startService()
        self.addCleanup(other.stopService)
        self.ask("PUT", "a", b"123")
        tree = OperatorTree()
        tree.putChild(b"metrics", Metrics(other.server_stats()))
        client = Client(other.site(b"v1/stream/", tree))
        self.addCleanup(client.leave)
        key = "durable_streams_body_bytes_total{result=done}"
        self.assertEqual(self.samples(client.ask("GET", "/-/metrics"))[key], 0)
        self.assertEqual(self.scrape()[key], 3)


class DurableMetricsTests(_Scraping):
    """Durable store."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MORNING
        executor = InlineExecutor()
        now = lambda: int(self.clock.seconds() * 1000)  # noqa: E731
        directory = scratch_directory(self)
        self.store = DurableStore(directory, self.clock, executor, now=now)
        self.serve(DurableStreams(reactor=self.clock, store=self.store, in_thread=at_once))

    def test_all(self) -> None:
        """Exactly the families of the table are exported."""
        self.ask("PUT", "a", b"123")
        self.ask("POST", "missing", b"123")
        told = {key.split("{")[0] for key in self.scrape()}
        told = {name for name in told if not name.startswith("durable_streams_process_")}
        known = set()
        for family in set(families.FAMILIES) - set(families.DATABASE):
            histogram = family.kind == "histogram"
            for ending in ("_bucket", "_count", "_sum") if histogram else ("",):
                known.add(family.full_name + ending)
        self.assertEqual(told, known)

    def test_levels(self) -> None:
        """Stats of the disk and durations of batches are exported."""
        self.ask("PUT", "a", b"1" * 100_000)
        samples = self.scrape()
        self.assertGreater(samples["durable_streams_lmdb_used_bytes"], 0)
        self.assertGreater(samples["durable_streams_wal_bytes"], 100_000)
        self.assertGreater(samples["durable_streams_disk_free_bytes"], 0)
        self.assertEqual(samples["durable_streams_commits_total"], 1)
        self.assertEqual(samples["durable_streams_batch_size_sum"], 1)
        self.assertEqual(samples["durable_streams_batch_size_bucket{le=1.0}"], 1)
        self.assertEqual(samples["durable_streams_batch_size_bucket{le=+Inf}"], 1)
        self.assertEqual(samples["durable_streams_commit_seconds_count"], 1)

    def test_disk_that_hangs(self) -> None:
        """A scrape waits for stats a limited time, and then omits them."""
        late: Deferred[Any] = Deferred()
        self.patch(self.observed.store, "stats", lambda: late)
        client = self.connect()
        client.request("GET", "/-/metrics")
        self.assertEqual(client.answers(), [])
        self.clock.advance(LEVELS_TIMEOUT)
        (answer,) = client.answers()
        samples = self.samples(answer)
        self.assertIn("durable_streams_commits_total", samples)
        self.assertNotIn("durable_streams_disk_free_bytes", samples)
        late.callback(None)

    def test_disconnect(self) -> None:
        """A scraper that disconnects causes no log entry."""
        late: Deferred[Any] = Deferred()
        self.patch(self.observed.store, "stats", lambda: late)
        client = self.connect()
        client.request("GET", "/-/metrics")
        client.leave()
        late.callback(None)
        self.assertEqual(client.transport.value(), b"")

    def test_exception(self) -> None:
        """An internal error is 500 and is logged."""
        self.patch(self.observed.store, "stats", lambda: fail(ZeroDivisionError()))
        self.assertEqual(self.connect().ask("GET", "/-/metrics").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(self.observed.store, "stats", lambda: succeed(None))
        self.assertEqual(self.connect().ask("GET", "/-/metrics").status, 200)


class HistogramTests(SynchronousTestCase):
    """Buckets of histograms."""

    def test_bounds(self) -> None:
        """Bounds increase."""
        found = [value for value in vars(StoreMetrics()).values() if isinstance(value, Histogram)]
        self.assertEqual(len(found), 5)
        for distribution in found:
            self.assertEqual(list(distribution.bounds), sorted(set(distribution.bounds)))


class PageTests(SynchronousTestCase):
    """docs/observability.md and the dashboard."""

    def test_page(self) -> None:
        """The page has one row for each metric, with kind, labels and meaning."""
        page = (_TOP / "docs" / "observability.md").read_text("utf-8")
        rows = [
            f"| `{family.full_name}` | {family.kind} "
            f"| {', '.join(f'`{label}`' for label in family.labels)} | {family.meaning} |"
            for family in families.FAMILIES
        ]
        told = [line for line in page.split("\n") if line.startswith("| `durable_streams_")]
        self.assertEqual(sorted(map(_spaced, told)), sorted(map(_spaced, rows)))

    def test_dashboard(self) -> None:
        """The dashboard uses existing metrics, and all families except those of the process."""
        board = json.loads((_TOP / "docs/dashboards/durable-streams.json").read_text("utf-8"))
        asked = json.dumps([panel.get("targets", []) for panel in board["panels"]])
        known = {family.full_name for family in families.FAMILIES}
        named = set(re.findall(r"durable_streams_[a-z_]+", asked))
        process = {name for name in named if name.startswith("durable_streams_process_")}
        plain = {
            name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
            if name not in known
            else name
            for name in named - process
        }
        self.assertEqual(plain - known, set())
        self.assertEqual(known - plain, {families.BUILD.full_name})


def _spaced(row: str) -> str:
    return " ".join(row.split())
