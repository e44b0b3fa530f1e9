"""Command ``bench``: a small load on a server."""

from __future__ import annotations

import secrets
from typing import Any

import click
from msgspec import json
from twisted.internet.defer import CancelledError, ensureDeferred, gatherResults

from durable_streams_tw.cli.client_options import Duration, client_command
from durable_streams_tw.client import StreamClient
from durable_streams_tw.client.event_loops import installed_reactor, settled
from durable_streams_tw.client.stream import Stream
from durable_streams_tw.clocks import monotonic_timers

_STREAM_TTL = 600


@client_command()
@click.option(
    "--time", "seconds", type=Duration(), default="5s", show_default=True, help="Duration."
)
@click.option(
    "--writers",
    type=click.IntRange(1, 1000),
    default=16,
    show_default=True,
    help="Appends that wait for their response at a time, each on a connection of its own.",
)
@click.option(
    "--size",
    type=click.IntRange(16, 1 << 20),
    default=100,
    show_default=True,
    help="Bytes of an append.",
)
async def bench(
    client: StreamClient, seconds: float | None, writers: int, size: int, as_json: bool
) -> None:
    """Measure appends and live delivery with a small load on a server.

    Creates one stream, appends to it as fast as the server responds, follows it with SSE, prints
    rates and latencies, and deletes it. This program needs more CPU per append than the server:
    the rate is that of one modest client, not the server's limit.
    """
    if seconds is None or seconds <= 0:
        raise click.UsageError("--time: expected a time of more than 0.")
    clock = monotonic_timers(installed_reactor())
    stream = client.stream(f"bench-{secrets.token_hex(8)}")
    await stream.create("application/octet-stream", ttl=_STREAM_TTL)
    appends: list[float] = []
    delays: list[float] = []
    sent: dict[bytes, float] = {}
    stop = clock.seconds() + seconds

    async def write(number: int) -> None:
        writer = client.stream(stream.url)
        count = 0
        while (begin := clock.seconds()) < stop:
            mark = b"%04d%012d" % (number, count)
            sent[mark] = begin
            await writer.append(
                (mark * (size // len(mark) + 1))[:size],
                content_type="application/octet-stream",
                idempotent=False,
            )
            appends.append(clock.seconds() - begin)
            count += 1

    following = ensureDeferred(_follow(stream, size, sent, delays, clock.seconds))
    try:
        begin = clock.seconds()
        await settled(gatherResults([ensureDeferred(write(n)) for n in range(writers)]))
        taken = clock.seconds() - begin
    finally:
        following.addErrback(lambda failure: failure.trap(CancelledError))
        following.cancel()
        await stream.delete()
    result = {
        "appends": len(appends),
        "appendsPerSecond": round(len(appends) / taken, 1),
        "appendMs": summary(appends),
        "deliveryMs": summary(delays),
    }
    if as_json:
        click.echo(json.encode(result))
        return
    click.echo(f"{result['appends']} appends of {size} bytes: {result['appendsPerSecond']} per s")
    for name, times in (("append", appends), ("delivery by SSE", delays)):
        figures = "  ".join(f"{key} {value} ms" for key, value in summary(times).items())
        click.echo(f"{name:<16} {figures or 'none'}")


async def _follow(
    stream: Stream, size: int, sent: dict[bytes, float], delays: list[float], seconds: Any
) -> None:
    """Record the time from the start of each append to its delivery."""
    rest = b""
    async for batch in stream.follow("now", live="sse"):
        rest += batch.data
        now = seconds()
        while len(rest) >= size:
            begin = sent.pop(rest[:16], None)
            if begin is not None:
                delays.append(now - begin)
            rest = rest[size:]


def summary(times: list[float]) -> dict[str, float]:
    """Return percentiles of times in seconds, as milliseconds; empty if there are none."""
    if not times:
        return {}
    ordered = sorted(times)
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[round(last * point)] * 1000, 2) for name, point in points.items()}
