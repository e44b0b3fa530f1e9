"""Commands ``create``, ``append``, ``close``, ``fork`` and ``delete``."""

from __future__ import annotations

from typing import Any, BinaryIO

import click
from msgspec import json

from durable_streams_tw.cli.client_input import StdinReader, lines_of, pieces_of
from durable_streams_tw.cli.client_options import Duration, client_command
from durable_streams_tw.cli.progress import StdinProgress
from durable_streams_tw.client.errors import BadTarget, InvalidArgument, NotFound, ProducerStopped
from durable_streams_tw.client.event_loops import installed_reactor
from durable_streams_tw.client.messages import is_message
from durable_streams_tw.client.producer import Delivery, Producer
from durable_streams_tw.client.stream import Stream
from durable_streams_tw.client.values import StreamInfo, Written
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
@click.option(
    "-t", "--content-type", metavar="TYPE", help="Content type (default: application/octet-stream)."
)
@_with_expiry
@click.option("--closed", is_flag=True, help="Close the stream after its initial content.")
@click.option("-d", "--data", metavar="TEXT", help="Initial content.")
@click.option(
    "-f", "--file", type=click.File("rb"), help="File with the initial content, - for stdin."
)
async def create(
    stream: Stream,
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
    info = await stream.create(content_type, content, ttl=_whole_seconds(ttl), **options)
    _print_info(stream, info, as_json)


@client_command()
@click.argument("source")
@click.argument("stream")
@click.option("--offset", help="Offset in the source at which the fork starts (default: its tail).")
@click.option(
    "--sub-offset",
    type=click.IntRange(min=0),
    help="Messages (JSON) or bytes after that offset.",
)
@_with_expiry
async def fork(
    source: Stream,
    stream: Stream,
    ttl: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Create a stream that starts with the contents of another one.

    STREAM shares the contents of SOURCE up to the offset. Later appends to one do not affect the
    other.
    """
    try:
        info = await source.fork(stream, ttl=_whole_seconds(ttl), **options)
    except BadTarget:
        raise click.UsageError("The fork must be on the same server as its source.") from None
    _print_info(stream, info, as_json)


@client_command()
@click.argument("stream")
@click.argument("text", required=False)
@click.option("-d", "--data", metavar="TEXT", help="The same as TEXT.")
@click.option("-f", "--file", type=click.File("rb"), help="File to append instead of stdin.")
@click.option("-l", "--lines", is_flag=True, help="Append stdin line by line as it arrives.")
@click.option(
    "--pieces", is_flag=True, help="Append stdin in pieces as it arrives, without regard to lines."
)
@click.option(
    "-t",
    "--content-type",
    metavar="TYPE",
    help="Content type of the data (default: that of the stream).",
)
@click.option("--create", "creates", is_flag=True, help="Create the stream if it does not exist.")
@click.option("--close", is_flag=True, help="Close the stream after the append.")
@click.option(
    "--seq",
    metavar="TEXT",
    help="Append only if this text is greater than the last one (Stream-Seq).",
)
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
    stream: Stream,
    text: str | None,
    data: str | None,
    file: BinaryIO | None,
    lines: bool,
    pieces: bool,
    content_type: str | None,
    creates: bool,
    close: bool,
    seq: str | None,
    producer: str | None,
    epoch: int | None,
    as_json: bool,
) -> None:
    """Append TEXT or standard input to a stream.

    Sends one atomic append. For a JSON stream the input is one JSON value, an array whose elements
    are the messages, or one message per line. With --lines or --pieces appends standard input as it
    arrives, as an idempotent producer, so that retries append nothing twice.
    """
    if text is not None and data is not None:
        raise click.UsageError("TEXT cannot be combined with --data.")
    data = text if data is None else data
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
    kind = content_type or ""
    if creates or not kind:
        kind = await _type_of(stream, content_type, creates)
    if streaming:
        is_json = content_types.is_json(kind)
        with StdinProgress() as progress:
            reader = StdinReader(installed_reactor(), on_read=progress.update)
            # Without it, the error of a batch would wait for the next line.
            source = stream.producer(
                producer, content_type=kind, epoch=epoch, on_failure=lambda *_: reader.end()
            )
            done = await _append_input(reader, source, is_json, lines, close)
    else:
        if content is None:
            content = await StdinReader(installed_reactor()).whole()
        if content_types.is_json(kind):
            content = json_document(content)
        if not content and close:
            done = await stream.close()
        elif not content:
            raise click.UsageError("No data to append.")
        elif producer is not None:
            done = await stream.append(
                content, content_type=kind, close=close, producer=producer, epoch=epoch
            )
        else:
            done = await stream.append(
                content, content_type=kind, close=close, seq=seq, idempotent=False
            )
    if done is not None:
        _print_written(done, as_json)


async def _type_of(stream: Stream, content_type: str | None, creates: bool) -> str:
    """Return the content type of a stream. With ``creates``, create the stream if it is missing."""
    try:
        return await stream.content_type()
    except NotFound as error:
        if creates:
            return (await stream.create(content_type)).content_type
        error.args = ("the stream does not exist: create it first, or use --create",)
        raise


def json_document(data: bytes) -> bytes:
    """Return input for a JSON stream as one document: lines of messages become an array.

    Other input is returned unchanged; the server reports what is wrong with it.
    """
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) > 1 and not is_message(data) and all(map(is_message, lines)):
        return b"[" + b",".join(lines) + b"]"
    return data


async def _append_input(
    source: StdinReader, producer: Producer, is_json: bool, lines: bool, close: bool
) -> Written | None:
    """Append input as it arrives. The producer batches it."""
    if is_json and not lines:
        raise click.UsageError("Use --lines to append to a JSON stream, with one message per line.")
    number = 0
    last: Delivery | None = None
    async with producer:
        async for piece in (lines_of if lines else pieces_of)(source):
            number += 1
            if is_json and not piece.strip():
                continue
            try:
                last = await producer.append(piece.strip() if is_json else piece)
            except InvalidArgument:
                await producer.flush()
                raise click.ClickException(f"Line {number} is not valid JSON.") from None
            except ProducerStopped as stopped:
                # The error of the batch that failed determines the exit status.
                raise stopped.__cause__ or stopped from None
        if close:
            return await producer.close()
    return None if last is None else await last


@client_command()
@click.argument("stream")
async def close(stream: Stream, as_json: bool) -> None:
    """Close a stream: its readers reach the end, and appends are refused."""
    _print_written(await stream.close(), as_json)


@client_command()
@click.argument("stream")
async def delete(stream: Stream, as_json: bool) -> None:
    """Delete a stream and its contents."""
    await stream.delete()
    if as_json:
        click.echo(json.encode({"deleted": stream.url}))


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


def _print_info(stream: Stream, info: StreamInfo, as_json: bool) -> None:
    if as_json:
        shown = {
            "url": stream.url,
            "contentType": info.content_type,
            "offset": info.offset,
            "closed": info.closed,
            "created": info.created,
        }
        click.echo(json.encode(shown))
    else:
        click.echo(f"{'Created' if info.created else 'Already exists'}: {stream.url}")


def _print_written(done: Written, as_json: bool) -> None:
    if as_json:
        shown = {"offset": done.offset, "closed": done.closed, "duplicate": done.duplicate}
        click.echo(json.encode(shown))
