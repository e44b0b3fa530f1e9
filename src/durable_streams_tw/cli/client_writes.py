"""Commands ``create``, ``append``, ``close``, ``fork`` and ``delete``."""

from __future__ import annotations

from typing import Any, BinaryIO

import click
from msgspec import json

from durable_streams_tw.cli.client_input import LineBatcher, PieceBatcher, StdinReader
from durable_streams_tw.cli.client_options import (
    ClientOptions,
    Duration,
    json_option,
    with_client_options,
)
from durable_streams_tw.cli.client_run import run
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


@click.command()
@click.argument("stream")
@click.option("-t", "--content-type", metavar="TYPE", help="Content type of the stream.")
@_with_expiry
@click.option("--closed", is_flag=True, help="Close the stream after its initial content.")
@click.option("-d", "--data", metavar="TEXT", help="Initial content.")
@click.option(
    "-f", "--file", type=click.File("rb"), help="File with the initial content, - for stdin."
)
@json_option
@with_client_options()
def create(
    access: ClientOptions,
    stream: str,
    content_type: str | None,
    ttl: float | None,
    expires_at: str | None,
    closed: bool,
    data: str | None,
    file: BinaryIO | None,
    as_json: bool,
) -> None:
    """Create a stream unless it exists.

    STREAM is a URL, or a name relative to --url.
    """
    target = access.target(stream)
    content = _content(data, file) or b""

    async def work(reactor: Any) -> None:
        client = access.client(reactor, target)
        info = await client.create(
            target,
            content_type,
            content,
            ttl=_whole_seconds(ttl),
            expires_at=expires_at,
            closed=closed,
        )
        _print_info(target, info, as_json)

    run(work, as_json=as_json)


@click.command()
@click.argument("source")
@click.argument("stream")
@click.option("--offset", help="Offset in the source at which the fork starts (default: its tail).")
@click.option(
    "--sub-offset",
    type=click.IntRange(min=0),
    help="Messages (JSON) or bytes after that offset.",
)
@_with_expiry
@json_option
@with_client_options()
def fork(
    access: ClientOptions,
    source: str,
    stream: str,
    offset: str | None,
    sub_offset: int | None,
    ttl: float | None,
    expires_at: str | None,
    as_json: bool,
) -> None:
    """Create a stream that starts with the contents of another one.

    STREAM shares the contents of SOURCE up to the offset. Later appends to one do not affect the
    other.
    """
    origin, target = access.target(source), access.target(stream)
    if origin.origin != target.origin:
        raise click.UsageError("The fork must be on the same server as its source.")

    async def work(reactor: Any) -> None:
        client = access.client(reactor, target, origin)
        info = await client.create(
            target,
            ttl=_whole_seconds(ttl),
            expires_at=expires_at,
            source=origin,
            fork_offset=offset,
            fork_sub_offset=sub_offset,
        )
        _print_info(target, info, as_json)

    run(work, as_json=as_json)


@click.command()
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
@json_option
@with_client_options()
def append(
    access: ClientOptions,
    stream: str,
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
    target = access.target(stream)
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

    async def work(reactor: Any) -> None:
        client: StreamClient = access.client(reactor, target)
        kind = content_type or (await client.head(target)).content_type
        if streaming:
            source = Producer(client, target, kind, name=producer, epoch=epoch)
            done = await _append_input(StdinReader(reactor), source, lines, close)
        else:
            body = await StdinReader(reactor).whole() if content is None else content
            if not body and close:
                done = await client.close(target)
            elif not body:
                raise click.UsageError("No data to append.")
            elif producer is not None:
                named = Producer(client, target, kind, name=producer, epoch=epoch)
                done = await named.send(body, close=close)
            else:
                done = await client.append(target, body, kind, close=close, seq=seq)
        if done is not None:
            _print_written(done, as_json)

    run(work, as_json=as_json)


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


@click.command()
@click.argument("stream")
@json_option
@with_client_options()
def close(access: ClientOptions, stream: str, as_json: bool) -> None:
    """Close a stream: its readers reach the end, and appends are refused."""
    target = access.target(stream)

    async def work(reactor: Any) -> None:
        _print_written(await access.client(reactor, target).close(target), as_json)

    run(work, as_json=as_json)


@click.command()
@click.argument("stream")
@json_option
@with_client_options()
def delete(access: ClientOptions, stream: str, as_json: bool) -> None:
    """Delete a stream and its contents."""
    target = access.target(stream)

    async def work(reactor: Any) -> None:
        await access.client(reactor, target).delete(target)
        if as_json:
            _print_json({"deleted": target.url})

    run(work, as_json=as_json)


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
