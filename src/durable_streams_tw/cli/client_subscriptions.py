"""Commands ``sub ls``, ``sub show``, ``sub create`` and ``sub delete`` (PROTOCOL.md §6)."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click
from msgspec import json

from durable_streams_tw.cli.client_listing import size_text
from durable_streams_tw.cli.client_options import Duration, client_command
from durable_streams_tw.cli.operators import Operators
from durable_streams_tw.client import StreamClient
from durable_streams_tw.client.requests import Endpoint


@click.group()
def sub() -> None:
    """List, show, create and delete subscriptions."""


@client_command()
async def list_subscriptions(client: StreamClient, as_json: bool) -> None:
    """List subscriptions: state, pending work, last error.

    The server needs --listing.
    """
    async for one in Operators(client).pages("subscriptions", "subscriptions"):
        if as_json:
            click.echo(json.encode(one))
            continue
        pending = size_text(one["pending_bytes"])
        error = f"  {one['last_error']}" if one["last_error"] else ""
        click.echo(f"{one['id']:<24}  {one['type']:<9}  {one['phase']:<8}  {pending:>10}{error}")


@client_command()
@click.argument("name", metavar="ID")
async def show(client: StreamClient, name: str, as_json: bool) -> None:
    """Print a subscription and its streams as JSON."""
    endpoint = _endpoint(client, name)
    _print(await endpoint.insist(lambda: endpoint.ask("GET")), as_json)


@client_command()
@click.argument("name", metavar="ID")
@click.option("--pattern", help="Glob of streams: * is one segment, ** any number of them.")
@click.option("--stream", "streams", multiple=True, help="Name of one more stream; repeatable.")
@click.option("--webhook", metavar="URL", help="URL that the server calls when there is work.")
@click.option(
    "--wake-stream", metavar="STREAM", help="Stream that announces work, for pull-wake workers."
)
@click.option("--lease", type=Duration(), metavar="TIME", help="Lease of a worker (default: 30s).")
@click.option("--description", help="Description for people.")
async def create(
    client: StreamClient,
    name: str,
    pattern: str | None,
    streams: tuple[str, ...],
    webhook: str | None,
    wake_stream: str | None,
    lease: float | None,
    description: str | None,
    as_json: bool,
) -> None:
    """Create a webhook or pull-wake subscription.

    Needs --pattern or --stream, and either --webhook or --wake-stream.
    """
    if (webhook is None) == (wake_stream is None):
        raise click.UsageError("Give either --webhook or --wake-stream.")
    if pattern is None and not streams:
        raise click.UsageError("Give --pattern, --stream, or both.")
    config: dict[str, Any] = {
        "type": "pull-wake" if webhook is None else "webhook",
        "pattern": pattern,
        "streams": list(streams) or None,
        "webhook": None if webhook is None else {"url": webhook},
        "wake_stream": wake_stream,
        "lease_ttl_ms": None if lease is None else round(lease * 1000),
        "description": description,
    }
    body = json.encode({key: value for key, value in config.items() if value is not None})
    endpoint = _endpoint(client, name)
    header = {"Content-Type": "application/json"}
    answer = await endpoint.insist(lambda: endpoint.ask("PUT", header, body))
    if as_json:
        _print(answer, as_json)
    else:
        click.echo(f"{'Created' if answer.status == 201 else 'Already exists'}: {name}")


@client_command()
@click.argument("name", metavar="ID")
async def delete(client: StreamClient, name: str, as_json: bool) -> None:
    """Delete a subscription."""
    endpoint = _endpoint(client, name)
    await endpoint.insist(lambda: endpoint.ask("DELETE"))
    if as_json:
        click.echo(json.encode({"deleted": name}))


for _name, _command in (
    ("ls", list_subscriptions),
    ("show", show),
    ("create", create),
    ("delete", delete),
):
    sub.add_command(_command, _name)


def _endpoint(client: StreamClient, name: str) -> Endpoint:
    return client.endpoint(f"{client.url.rstrip('/')}/__ds/subscriptions/{quote(name, safe='')}")


def _print(answer: Any, as_json: bool) -> None:
    """Print a response: on one line with --json, indented otherwise."""
    click.echo(json.encode(json.decode(answer.body)) if as_json else json.format(answer.body))
