"""Operator resources below ``/-/``."""

from __future__ import annotations

from twisted.web.resource import IResource

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.operators.resources import OperatorTree
from durable_streams_tw.http.operators.server_stats import ServerStats
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.telemetry.health import Live, Ready
from durable_streams_tw.telemetry.metrics import Metrics


def operator_tree(
    configuration: Configuration,
    streams: DurableStreams,
    observed: ServerStats,
    metrics: IResource | None,
) -> OperatorTree:
    """Return the operator resources that the settings enable.

    ``observed`` are the statistics of the streams; ``metrics`` replaces the resource that shows
    them.
    """
    tree = OperatorTree()
    tree.putChild(b"live", Live())
    tree.putChild(b"ready", Ready(observed))
    if configuration["metrics"]:
        tree.putChild(b"metrics", metrics or Metrics(observed))
    if configuration["listing"] or configuration["console"]:
        for name, resource in streams.listing_resources(configuration["root"]).items():
            tree.putChild(name, resource)
    if configuration["console"]:
        # Imported here: most servers have no console.
        from durable_streams_tw.http.operators.console import Console

        tree.putChild(b"console", Console(configuration["root"]))
    return tree
