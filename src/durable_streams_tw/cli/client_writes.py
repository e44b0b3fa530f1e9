"""Commands ``create``, ``append``, ``close``, ``fork`` and ``delete``."""

from __future__ import annotations

from typing import Any, BinaryIO

import click
from msgspec import json

from durable_streams_tw.cli.client_input import LineBatcher, PieceBatcher, StdinReader
from durable_streams_tw.cli.client_options import Duration, client_command
from durable_streams_tw.cli.client_run import installed_reactor
from durable_streams_tw.client.producer import Producer
from durable_streams_tw.client.streams import Info, StreamClient, Written
from durable_streams_tw.client.urls import Target
from durable_streams_tw.protocol import content_types

_expiry = (
    click.option(
        "--ttl",
        type=Duration(),
        metavar="TIME",
        help="Expire after this time without access, such as 1h.",
    ),
    click.option("--expires-at", metavar="TIMESTAMP", help="Expire at this time (RFC 3339)."),
)


def _with_expiry(command: Any) -> Any:
    for option in reversed(_expiry):
        command = option(command)
    return command


@client_command()
@click.argument("stream")
@click.option("-t", "--content-type", metavar="TYPE", help="Content type of the stream.")
@_with_expiry
@click.option("--closed", is_flag=True, help="Close the stream after its initial content.")
@click.option("-d", "--data", metavar="TEXT", help="Initial content.")
@click.option(
    "-f", "--file", type=click.File("rb"), help="File with the initial content, - for stdin."
)
async def create(
    client: StreamClient,
    stream: Target,
    content_type: str | None,
    ttl: float | None,
    data: str | None,
    file: BinaryIO | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Create a stream unless it exists.

    STREAM is a URL, or a name relative to --url.
    """
    content = _content(data, file) or b""
    info = await client.create(stream, content_type, content, ttl=_whole_seconds(ttl), **options)
    _print_info(stream, info, as_json)


@client_command()
@click.argument("source")
@click.argument("stream")
@click.option(
    "--offset",
    "fork_offset",
    help="Offset in the source at which the fork starts (default: its tail).",
)
@click.option(
    "--sub-offset",
    "fork_sub_offset",
    type=click.IntRange(min=0),
    help="Messages (JSON) or bytes after that offset.",
)
@_with_expiry
async def fork(
    client: StreamClient,
    source: Target,
    stream: Target,
    ttl: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Create a stream that starts with the contents of another one.

    STREAM shares the contents of SOURCE up to the offset. Later appends to one do not affect the
    other.
    """
    if source.origin != stream.origin:
        raise click.UsageError("The fork must be on the same server as its source.")
    info = await client.create(stream, ttl=_whole_seconds(ttl), source=source, **options)
    _print_info(stream, info, as_json)


@client_command()
@click.argument("stream")
@click.option("-d", "--data", metavar="TEXT", help="Data to append instead of stdin.")
@click.option("-f", "--file", type=click.File("rb"), help="File to append instead of stdin.")
@click.option("-l", "--lines", is_flag=True, help="Append stdin line by line as it arrives.")
@click.option(
    "--pieces", is_flag=True, help="Append stdin in pieces as it arrives, without regard to lines."
)
@click.option(
    "-t",
    "--content-type",
    metavar="TYPE",
    help="Content type of the stream (default: that of the stream).",
)
@click.option("--close", is_flag=True, help="Close the stream after the append.")
@click.option("--seq", metavar="TEXT", help="Stream-Seq header of a single append.")
@click.option(
    "--producer",
    metavar="NAME",
    help="Append exactly once as this idempotent producer; fences earlier producers of this name.",
)
@click.option(
    "--epoch",
    type=click.IntRange(min=0),
    help="Epoch of the producer (default: the time in ms).",
)
async def append(
    client: StreamClient,
    stream: Target,
    data: str | None,
    file: BinaryIO | None,
    lines: bool,
    pieces: bool,
    content_type: str | None,
    close: bool,
    seq: str | None,
    producer: str | None,
    epoch: int | None,
    as_json: bool,
) -> None:
    """Append standard input or the given data to a stream.

    Sends one atomic append. With --lines or --pieces appends standard input as it arrives, as an
    idempotent producer, so that retries append nothing twice. In a JSON stream each line is a
    message.
    """
    streaming = lines or pieces
    if lines and pieces:
        raise click.UsageError("--lines cannot be combined with --pieces.")
    if streaming and (data is not None or file is not None or seq is not None):
        raise click.UsageError(
            "--lines and --pieces cannot be combined with --data, --file or --seq."
        )
    if epoch is not None and producer is None:
        raise click.UsageError("--epoch requires --producer.")
    if seq is not None and producer is not None:
        raise click.UsageError("--seq cannot be combined with --producer.")
    content = _content(data, file)
    kind = content_type or (await client.head(stream)).content_type
    if streaming:
        source = Producer(client, stream, kind, name=producer, epoch=epoch)
        done = await _append_input(StdinReader(installed_reactor()), source, lines, close)
    else:
        if content is None:
            content = await StdinReader(installed_reactor()).whole()
        if not content and close:
            done = await client.close(stream)
        elif not content:
            raise click.UsageError("No data to append.")
        elif producer is not None:
            named = Producer(client, stream, kind, name=producer, epoch=epoch)
            done = await named.send(content, close=close)
        else:
            done = await client.append(stream, content, kind, close=close, seq=seq)
    if done is not None:
        _print_written(done, as_json)


async def _append_input(
    source: StdinReader, producer: Producer, lines: bool, close: bool
) -> Written | None:
    """Append input as it arrives. Input that arrives during a request forms the next batch."""
    is_json = content_types.is_json(producer.content_type)
    if is_json and not lines:
        raise click.UsageError("Use --lines to append to a JSON stream, with one message per line.")
    batcher = LineBatcher(is_json) if lines else PieceBatcher()
    done = None
    while (piece := await source.take()) is not None:
        for batch in batcher.feed(piece):
            done = await producer.send(batch)
    for batch in batcher.end():
        done = await producer.send(batch)
    return await producer.send(close=True) if close else done


@client_command()
@click.argument("stream")
async def close(client: StreamClient, stream: Target, as_json: bool) -> None:
    """Close a stream: its readers reach the end, and appends are refused."""
    _print_written(await client.close(stream), as_json)


@client_command()
@click.argument("stream")
async def delete(client: StreamClient, stream: Target, as_json: bool) -> None:
    """Delete a stream and its contents."""
    await client.delete(stream)
    if as_json:
        _print_json({"deleted": stream.url})


def _content(data: str | None, file: BinaryIO | None) -> bytes | None:
    if data is not None and file is not None:
        raise click.UsageError("--data cannot be combined with --file.")
    if file is not None:
        return file.read()
    return None if data is None else data.encode("utf-8", "surrogateescape")


def _whole_seconds(ttl: float | None) -> int | None:
    if ttl is not None and ttl != int(ttl):
        raise click.UsageError("--ttl: expected a whole number of seconds.")
    return None if ttl is None else int(ttl)


def _print_info(target: Target, info: Info, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "url": target.url,
                "contentType": info.content_type,
                "offset": info.offset,
                "closed": info.closed,
                "created": info.created,
            }
        )
    else:
        click.echo(f"{'Created' if info.created else 'Already exists'}: {target.url}")


def _print_written(done: Written, as_json: bool) -> None:
    if as_json:
        _print_json({"offset": done.offset, "closed": done.closed, "duplicate": done.duplicate})


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.encode(value))
