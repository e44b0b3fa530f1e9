"""Commands ``read``, ``tail`` and ``head``."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import click
from msgspec import json
from twisted.internet.defer import CancelledError, ensureDeferred

from durable_streams_tw.cli.client_options import client_command
from durable_streams_tw.cli.client_run import Output, OutputClosed, installed_reactor
from durable_streams_tw.client.errors import about
from durable_streams_tw.client.follow import Batch, Live
from durable_streams_tw.client.messages import on_one_line
from durable_streams_tw.client.stream import Stream
from durable_streams_tw.protocol import content_types

_offset = click.option(
    "-o", "--offset", default="-1", help="Offset to start at: an offset, -1 (start) or now (tail)."
)
_offset_file = click.option(
    "--offset-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that stores the offset: start at it if the file exists, update it on output.",
)


@client_command()
@click.argument("stream")
@_offset
@_offset_file
async def read(stream: Stream, **options: Any) -> None:
    """Print the contents of a stream.

    Prints bytes unchanged, and messages of a JSON stream one per line. With --json prints one
    object per chunk with the offset after it, or null within a long response.
    """
    await _print_stream(stream, None, **options)


@client_command("forever")
@click.argument("stream")
@_offset
@_offset_file
@click.option(
    "--live",
    type=click.Choice(["auto", "sse", "long-poll"]),
    default="auto",
    show_default=True,
    help="Live mode; SSE cannot carry carriage returns of text.",
)
async def tail(stream: Stream, live: Live, **options: Any) -> None:
    """Print the contents of a stream and follow it until it is closed.

    Reconnects after connection errors and prints every byte once. The output is that of `read`.
    """
    await _print_stream(stream, live, **options)


@client_command()
@click.argument("stream")
async def head(stream: Stream, as_json: bool) -> None:
    """Print metadata of a stream: content type, tail offset, closed, expiry."""
    info = await stream.head()
    rows = {
        "contentType": info.content_type,
        "offset": info.offset,
        "closed": info.closed,
        "ttl": info.ttl,
        "expiresAt": info.expires_at,
    }
    if as_json:
        click.echo(json.encode({"url": stream.url, **rows}))
        return
    names = {"contentType": "content type", "ttl": "ttl (s)", "expiresAt": "expires at"}
    for name, value in rows.items():
        if value is not None:
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
            click.echo(f"{names.get(name, name):<13} {shown}")


async def _print_stream(
    stream: Stream,
    live: Live | None,
    offset: str,
    offset_file: Path | None,
    as_json: bool,
) -> None:
    if offset_file is not None:
        offset = _load_offset(offset_file) or offset
    output = Output()

    async def show(batches: AsyncGenerator[Batch, None]) -> None:
        async for batch in batches:
            with about(stream.url):
                output.write(_json_line(batch) if as_json else format_batch(batch))
            if offset_file is not None and batch.offset is not None:
                _store_offset(offset_file, batch.offset)

    if live is None:
        await show(stream.read(offset))
        return
    showing = ensureDeferred(show(stream.follow(offset, live=live)))
    closed = False

    def on_output_closed() -> None:
        nonlocal closed
        closed = True
        showing.cancel()

    output.notify_when_closed(installed_reactor(), on_output_closed)
    try:
        await showing
    except CancelledError:
        if closed:
            raise OutputClosed from None
        raise


def format_batch(batch: Batch) -> bytes:
    """Return a batch as output: JSON messages one per line, other bytes unchanged."""
    if batch.is_json:
        return b"".join(on_one_line(message) + b"\n" for message in batch.messages())
    return batch.data


def _json_line(batch: Batch) -> bytes:
    """Return a batch as one line of JSON. Messages keep their bytes."""
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
            # Invalid UTF-8, or the batch ends within a character.
            return b'"base64":' + json.encode(b64encode(batch.data).decode("ascii"))
    return b'"base64":' + json.encode(b64encode(batch.data).decode("ascii"))


def _load_offset(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise click.FileError(str(path), getattr(error, "strerror", "not UTF-8 text")) from None


def _store_offset(path: Path, offset: str) -> None:
    # Write and rename: a reader of the file must not see a partial offset.
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_text(offset + "\n", "utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise click.FileError(str(path), error.strerror or "cannot write") from None
