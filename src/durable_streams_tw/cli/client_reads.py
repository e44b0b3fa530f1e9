"""``read``, ``tail``, ``head``."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import click
from msgspec import json

from durable_streams_tw.cli.client_options import ClientOptions, json_option, with_client_options
from durable_streams_tw.cli.client_run import Output, OutputClosed, run
from durable_streams_tw.client.errors import about
from durable_streams_tw.client.follow import Batch, Live, catch_up, follow
from durable_streams_tw.client.messages import on_one_line
from durable_streams_tw.client.streams import Info
from durable_streams_tw.protocol import content_types

_offset = click.option(
    "-o", "--offset", default="-1", help="Where to begin: an offset, -1 (the start), or now."
)
_offset_file = click.option(
    "--offset-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Begin where this file says, if it is there, and keep in it how far the output has come.",
)


@click.command()
@click.argument("stream")
@_offset
@_offset_file
@json_option
@with_client_options()
def read(
    access: ClientOptions, stream: str, offset: str, offset_file: Path | None, as_json: bool
) -> None:
    """Print what a stream has.

    Bytes as they are; the messages of a JSON stream one a line. With --json one object a
    chunk, with the offset that it leads to; null in the middle of a long answer.
    """
    _show(access, stream, offset, offset_file, as_json, None)


@click.command()
@click.argument("stream")
@_offset
@_offset_file
@click.option(
    "--live",
    type=click.Choice(["auto", "sse", "long-poll"]),
    default="auto",
    show_default=True,
    help="How to wait for more; an event stream cannot carry a text's carriage returns.",
)
@json_option
@with_client_options("forever")
def tail(
    access: ClientOptions,
    stream: str,
    offset: str,
    offset_file: Path | None,
    live: Live,
    as_json: bool,
) -> None:
    """Print what a stream has, and what comes, until it is closed.

    A lost connection is made again: every byte is printed once. Otherwise as `read`.
    """
    _show(access, stream, offset, offset_file, as_json, live)


@click.command()
@click.argument("stream")
@json_option
@with_client_options()
def head(access: ClientOptions, stream: str, as_json: bool) -> None:
    """Print what a stream is: its type, its end, whether it is closed, when it expires."""
    target = access.target(stream)

    async def work(reactor: Any) -> None:
        info: Info = await access.client(reactor, target).head(target)
        rows = {
            "contentType": info.content_type,
            "offset": info.offset,
            "closed": info.closed,
            "ttl": info.ttl,
            "expiresAt": info.expires_at,
        }
        if as_json:
            click.echo(json.encode({"url": target.url, **rows}))
            return
        names = {"contentType": "content type", "ttl": "ttl (s)", "expiresAt": "expires at"}
        for name, value in rows.items():
            if value is not None:
                shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
                click.echo(f"{names.get(name, name):<13} {shown}")

    run(work, as_json=as_json)


def _show(
    access: ClientOptions,
    stream: str,
    offset: str,
    offset_file: Path | None,
    as_json: bool,
    live: Live | None,
) -> None:
    target = access.target(stream)
    if offset_file is not None:
        offset = _kept(offset_file) or offset
    output = Output()

    async def show(batches: AsyncGenerator[Batch, None]) -> None:
        async for batch in batches:
            with about(target.url):
                output.write(_told(batch) if as_json else shown(batch))
            if offset_file is not None and batch.offset is not None:
                _keep(offset_file, batch.offset)

    async def work(reactor: Any) -> None:
        from twisted.internet.defer import CancelledError, ensureDeferred

        client = access.client(reactor, target)
        if live is None:
            await show(catch_up(client, target, offset))
            return
        showing = ensureDeferred(show(follow(client, target, offset, live)))
        unread = False

        def nobody_reads() -> None:
            nonlocal unread
            unread = True
            showing.cancel()

        output.when_unread(reactor, nobody_reads)
        try:
            await showing
        except CancelledError:
            if unread:
                raise OutputClosed from None
            raise

    run(work, as_json=as_json)


def shown(batch: Batch) -> bytes:
    """A batch as people, and programs that read lines, want to see it."""
    if batch.is_json:
        return b"".join(on_one_line(message) + b"\n" for message in batch.messages())
    return batch.data


def _told(batch: Batch) -> bytes:
    """A batch as one line of JSON. Messages stay byte for byte what they are."""
    flags = json.encode(
        {"offset": batch.offset, "upToDate": batch.up_to_date, "closed": batch.closed}
    )
    if batch.is_json:
        data = b'"messages":[' + b",".join(map(on_one_line, batch.messages())) + b"]"
    else:
        data = _quoted(batch)
    return flags[:-1] + b"," + data + b"}\n"


def _quoted(batch: Batch) -> bytes:
    if content_types.is_text(batch.content_type):
        try:
            return b'"text":' + json.encode(batch.data.decode("utf-8"))
        except UnicodeDecodeError:
            # Not UTF-8, or cut inside a character.
            return b'"base64":' + json.encode(b64encode(batch.data).decode("ascii"))
    return b'"base64":' + json.encode(b64encode(batch.data).decode("ascii"))


def _kept(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise click.FileError(str(path), getattr(error, "strerror", "it is no text")) from None


def _keep(path: Path, offset: str) -> None:
    # Another process finds the old offset or the new one, never half of one.
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_text(offset + "\n", "utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise click.FileError(str(path), error.strerror or "it cannot be written") from None
