"""Commands ``ls`` and ``watch``: streams of a server that has the listing."""

from __future__ import annotations

import time
from typing import Any

import click
from msgspec import json
from twisted.internet.task import deferLater

from durable_streams_tw.cli import store_tasks
from durable_streams_tw.cli.client_options import client_command
from durable_streams_tw.cli.operators import Operators
from durable_streams_tw.client import StreamClient
from durable_streams_tw.client.event_loops import installed_reactor, settled


@client_command()
@click.argument("pattern", default="")
@click.option("-l", "--long", "is_long", is_flag=True, help="Show type, size, state and time.")
@click.option("--tree", is_flag=True, help="Show the names as a tree of their segments.")
@click.option(
    "--sort",
    type=click.Choice(["name", "size", "active"]),
    default="name",
    show_default=True,
    help="Order of the streams: by name, largest first, or last active first.",
)
async def ls(
    client: StreamClient, pattern: str, is_long: bool, tree: bool, sort: str, as_json: bool
) -> None:
    """List streams.

    PATTERN is a prefix, or has wildcards: 'jobs/*'. With --json prints one object per stream. The
    server needs --listing.
    """
    if tree and sort != "name":
        raise click.UsageError("--tree cannot be combined with --sort.")
    shown: list[str] = []
    async for stream in Operators(client).streams(pattern, sort):
        path = stream["path"]
        if as_json:
            click.echo(json.encode(stream))
        elif tree:
            _print_branch(shown, path.split("/"), _details(stream) if is_long else "")
            shown = path.split("/")
        else:
            click.echo(f"{_details(stream)}{path}" if is_long else path)


def _details(stream: dict[str, Any]) -> str:
    """Return the columns of ``--long``, which end where the name begins."""
    state = "closed" if stream["closed"] else "open"
    kind = stream["content_type"].partition(";")[0]
    return f"{size_text(stream['size']):>10}  {state:<6}  {stream['active_at'][:19]}  {kind:<26}  "


def size_text(size: int) -> str:
    """Return a size in bytes as text with a unit, such as ``1.5 MiB``."""
    return store_tasks.size(size, "B", "")


def _print_branch(before: list[str], segments: list[str], details: str) -> None:
    """Print the segments of a path that the path before it does not share."""
    shared = 0
    while shared < min(len(before), len(segments) - 1) and before[shared] == segments[shared]:
        shared += 1
    for depth in range(shared, len(segments)):
        is_leaf = depth == len(segments) - 1
        columns = details if is_leaf else " " * len(details)
        click.echo(f"{columns}{'  ' * depth}{segments[depth]}{'' if is_leaf else '/'}")


@client_command("forever")
@click.argument("pattern", default="")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Pause between two reads of the list.",
)
async def watch(client: StreamClient, pattern: str, interval: float, as_json: bool) -> None:
    """Print changes of streams as they happen: created, appended, closed, deleted.

    PATTERN is as in `ls`. The list is read every --interval seconds; a stream that is created and
    deleted in between is not seen. The server needs --listing.
    """
    operators = Operators(client)
    clock = installed_reactor()
    known: dict[str, dict[str, Any]] | None = None
    while True:
        current = {stream["path"]: stream async for stream in operators.streams(pattern)}
        for change, stream in changes(known, current):
            if as_json:
                click.echo(json.encode({"change": change, **stream}))
            else:
                at = time.strftime("%H:%M:%S")
                click.echo(f"{at}  {change:<8}  {size_text(stream['size']):>10}  {stream['path']}")
        known = current
        await settled(deferLater(clock, interval))


def changes(
    known: dict[str, dict[str, Any]] | None, current: dict[str, dict[str, Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """Return what has changed between two lists of streams by path; nothing at first."""
    if known is None:
        return []
    found = [("deleted", stream) for path, stream in known.items() if path not in current]
    for path, stream in current.items():
        before = known.get(path)
        if before is None or before["created_at"] != stream["created_at"]:
            found.append(("created", stream))
        elif before["next_offset"] != stream["next_offset"]:
            found.append(("appended", stream))
        if stream["closed"] and not (before or {}).get("closed"):
            found.append(("closed", stream))
    return found
