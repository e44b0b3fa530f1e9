"""``create``, ``append``, ``close``, ``fork``, ``delete``."""

from __future__ import annotations

from typing import Any, BinaryIO

import click
from msgspec import json

from durable_streams_tw.cli.client_input import Input, Lines, Pieces
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
        "--ttl", type=Duration(), metavar="TIME", help="Expire when unused for so long, as 1h."
    ),
    click.option("--expires-at", metavar="TIMESTAMP", help="Expire then (RFC 3339)."),
)


def _with_expiry(command: Any) -> Any:
    for option in reversed(_expiry):
        command = option(command)
    return command


@click.command()
@click.argument("stream")
@click.option("-t", "--content-type", metavar="TYPE", help="What the stream is made of.")
@_with_expiry
@click.option("--closed", is_flag=True, help="Make it closed: it has what is given now.")
@click.option("-d", "--data", metavar="TEXT", help="Its first content.")
@click.option("-f", "--file", type=click.File("rb"), help="The same from a file, - for stdin.")
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
    """Make a stream, or make sure that it is there.

    STREAM is a URL, or a name below --url.
    """
    target = access.target(stream)
    content = _given(data, file) or b""

    async def work(reactor: Any) -> None:
        client = access.client(reactor, target)
        info = await client.create(
            target,
            content_type,
            content,
            ttl=_whole(ttl),
            expires_at=expires_at,
            closed=closed,
        )
        _say_info(target, info, as_json)

    run(work, as_json=as_json)


@click.command()
@click.argument("source")
@click.argument("stream")
@click.option("--offset", help="Where the fork leaves its source (default: the source's end).")
@click.option(
    "--sub-offset",
    type=click.IntRange(min=0),
    help="How many messages (JSON) or bytes behind that offset.",
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
    """Make a stream that begins as another one does.

    STREAM shares what SOURCE has up to the offset; both go on by themselves from there.
    """
    origin, target = access.target(source), access.target(stream)
    if origin.origin != target.origin:
        raise click.UsageError("a fork is on the same server as its source")

    async def work(reactor: Any) -> None:
        client = access.client(reactor, target, origin)
        info = await client.create(
            target,
            ttl=_whole(ttl),
            expires_at=expires_at,
            source=origin,
            fork_offset=offset,
            fork_sub_offset=sub_offset,
        )
        _say_info(target, info, as_json)

    run(work, as_json=as_json)


@click.command()
@click.argument("stream")
@click.option("-d", "--data", metavar="TEXT", help="What to append, in place of stdin.")
@click.option("-f", "--file", type=click.File("rb"), help="The same from a file.")
@click.option("-l", "--lines", is_flag=True, help="Append stdin line by line, as lines come.")
@click.option("--pieces", is_flag=True, help="Append stdin as its bytes come, lines or not.")
@click.option("-t", "--content-type", metavar="TYPE", help="Of the stream (default: ask it).")
@click.option("--close", is_flag=True, help="Close the stream behind it.")
@click.option("--seq", metavar="TEXT", help="Stream-Seq of a single append.")
@click.option(
    "--producer",
    metavar="NAME",
    help="Append once, however often it has to be sent, as this producer; whoever had the name "
    "before is shut out.",
)
@click.option(
    "--epoch",
    type=click.IntRange(min=0),
    help="The producer's epoch (default: the time, in milliseconds).",
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
    """Add to a stream, from standard input or as given.

    All of it is one append, carried out whole or not at all. With --lines or --pieces it is
    appended while it comes, by a producer: what has to be sent again is not appended again. In
    a JSON stream each line is a message.
    """
    target = access.target(stream)
    flowing = lines or pieces
    if lines and pieces:
        raise click.UsageError("--lines or --pieces, not both")
    if flowing and (data is not None or file is not None or seq is not None):
        raise click.UsageError("--lines and --pieces append standard input, without --seq")
    if epoch is not None and producer is None:
        raise click.UsageError("--epoch is a --producer's")
    if seq is not None and producer is not None:
        raise click.UsageError("--seq or --producer, not both")
    content = _given(data, file)

    async def work(reactor: Any) -> None:
        client: StreamClient = access.client(reactor, target)
        kind = content_type or (await client.head(target)).content_type
        if flowing:
            source = Producer(client, target, kind, name=producer, epoch=epoch)
            done = await _flow(Input(reactor), source, lines, close)
        else:
            body = await Input(reactor).whole() if content is None else content
            if not body and close:
                done = await client.close(target)
            elif not body:
                raise click.UsageError("there is nothing to append")
            elif producer is not None:
                named = Producer(client, target, kind, name=producer, epoch=epoch)
                done = await named.send(body, close=close)
            else:
                done = await client.append(target, body, kind, close=close, seq=seq)
        if done is not None:
            _say_written(done, as_json)

    run(work, as_json=as_json)


async def _flow(source: Input, producer: Producer, lines: bool, close: bool) -> Written | None:
    """Append input as it comes: while one batch is on its way, the next one gathers."""
    is_json = content_types.is_json(producer.content_type)
    if is_json and not lines:
        raise click.UsageError("a JSON stream has messages: use --lines, with one on each")
    cut = Lines(is_json) if lines else Pieces()
    done = None
    while (piece := await source.take()) is not None:
        for batch in cut.feed(piece):
            done = await producer.send(batch)
    for batch in cut.end():
        done = await producer.send(batch)
    return await producer.send(close=True) if close else done


@click.command()
@click.argument("stream")
@json_option
@with_client_options()
def close(access: ClientOptions, stream: str, as_json: bool) -> None:
    """End a stream: its readers are told, and nothing can be appended any more."""
    target = access.target(stream)

    async def work(reactor: Any) -> None:
        _say_written(await access.client(reactor, target).close(target), as_json)

    run(work, as_json=as_json)


@click.command()
@click.argument("stream")
@json_option
@with_client_options()
def delete(access: ClientOptions, stream: str, as_json: bool) -> None:
    """Remove a stream and all that is in it."""
    target = access.target(stream)

    async def work(reactor: Any) -> None:
        await access.client(reactor, target).delete(target)
        if as_json:
            _say({"deleted": target.url})

    run(work, as_json=as_json)


def _given(data: str | None, file: BinaryIO | None) -> bytes | None:
    if data is not None and file is not None:
        raise click.UsageError("--data or --file, not both")
    if file is not None:
        return file.read()
    return None if data is None else data.encode("utf-8", "surrogateescape")


def _whole(ttl: float | None) -> int | None:
    if ttl is not None and ttl != int(ttl):
        raise click.UsageError("--ttl is a whole number of seconds")
    return None if ttl is None else int(ttl)


def _say_info(target: Target, info: Info, as_json: bool) -> None:
    if as_json:
        _say(
            {
                "url": target.url,
                "contentType": info.content_type,
                "offset": info.offset,
                "closed": info.closed,
                "created": info.created,
            }
        )
    else:
        click.echo(f"{'created' if info.created else 'there already'}: {target.url}")


def _say_written(done: Written, as_json: bool) -> None:
    if as_json:
        _say({"offset": done.offset, "closed": done.closed, "duplicate": done.duplicate})


def _say(value: dict[str, Any]) -> None:
    click.echo(json.encode(value))
