"""Commands ``read``, ``tail`` and ``head``."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections import deque
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import click
from msgspec import json
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, FirstError, ensureDeferred, gatherResults

from durable_streams_tw.cli.client_options import client_command, with_scheme
from durable_streams_tw.cli.client_run import Output, OutputClosed
from durable_streams_tw.cli.operators import Operators, is_pattern
from durable_streams_tw.cli.progress import ReadProgress
from durable_streams_tw.client import StreamClient
from durable_streams_tw.client.errors import Rejected, about
from durable_streams_tw.client.event_loops import installed_reactor
from durable_streams_tw.client.follow import Batch, Live
from durable_streams_tw.client.messages import is_message, messages, on_one_line
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
#: Commas that are tried as the end of a message, before the whole stream is read instead.
_BOUNDARIES: Final = 64

_streams = click.argument("names", metavar="STREAM...", nargs=-1, required=True)


@client_command()
@_streams
@_offset
@_offset_file
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), help="Stop after this many messages or lines."
)
async def read(
    client: StreamClient,
    names: tuple[str, ...],
    offset: str,
    offset_file: Path | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print the contents of streams.

    Prints bytes unchanged, and messages of a JSON stream one per line. A STREAM with wildcards
    ('jobs/*') stands for all streams that match; this needs a server with --listing. With --json
    prints one object per chunk with the offset after it, or null within a long response.
    """
    if limit is not None and offset_file is not None:
        raise click.UsageError("--limit cannot be combined with --offset-file.")
    printer = BatchPrinter(as_json)
    streams = await _select(client, names, offset_file, printer)
    for name, stream in streams:
        left = limit
        start = _load_offset(offset_file) or offset
        with ReadProgress() as progress:
            async for batch in stream.read(start):
                with about(stream.url):
                    cut, used = first_items(batch, left)
                    printer.show(name, cut)
                _store_offset(offset_file, batch)
                if left is None:
                    progress.update(len(batch.data), batch.remaining)
                else:
                    left -= used
                    if not left:
                        break


@client_command("forever")
@_streams
@_offset
@_offset_file
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=0),
    help="Start with this many of the last messages or lines.",
)
@click.option(
    "--live",
    type=click.Choice(["auto", "sse", "long-poll"]),
    default="auto",
    show_default=True,
    help="Live mode; SSE cannot carry carriage returns of text.",
)
async def tail(
    client: StreamClient,
    names: tuple[str, ...],
    offset: str,
    offset_file: Path | None,
    last: int | None,
    live: Live,
    as_json: bool,
) -> None:
    """Print the contents of streams and follow them until all are closed.

    Reconnects after connection errors and prints every byte once. STREAM and the output are those
    of `read`; patterns are expanded once, at the start.
    """
    if last is not None and (offset_file is not None or offset != "-1"):
        raise click.UsageError("--last cannot be combined with --offset or --offset-file.")
    printer = BatchPrinter(as_json)
    streams = await _select(client, names, offset_file, printer)

    async def follow(name: str, stream: Stream) -> None:
        start = _load_offset(offset_file) or offset
        if last is not None:
            batch = await read_end(client, stream, last)
            with about(stream.url):
                printer.show(name, batch)
            if batch.closed or batch.offset is None:
                return
            start = batch.offset
        async for batch in stream.follow(start, live=live):
            with about(stream.url):
                printer.show(name, batch)
            _store_offset(offset_file, batch)

    following = gatherResults(
        [ensureDeferred(follow(name, stream)) for name, stream in streams], consumeErrors=True
    )
    closed = False

    def on_output_closed() -> None:
        nonlocal closed
        closed = True
        following.cancel()

    printer.output.notify_when_closed(installed_reactor(), on_output_closed)
    try:
        await following
    except FirstError as failed:
        if closed:
            raise OutputClosed from None
        failed.subFailure.raiseException()
    except CancelledError:
        if closed:
            raise OutputClosed from None
        raise


async def _select(
    client: StreamClient, names: tuple[str, ...], offset_file: Path | None, printer: BatchPrinter
) -> list[tuple[str, Stream]]:
    """Return the streams of the arguments, with patterns expanded."""
    expanded = await Operators(client).expand(names) if any(map(is_pattern, names)) else names
    if len(expanded) > 1 and offset_file is not None:
        raise click.UsageError("--offset-file needs a single stream.")
    printer.is_titled = len(expanded) > 1
    return [(name, client.stream(with_scheme(name))) for name in expanded]


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


class BatchPrinter:
    """Printer of batches of one or several streams. ``is_titled`` prints the name before each."""

    def __init__(self, as_json: bool) -> None:
        self.output = Output()
        self.is_titled = False
        self._as_json = as_json
        self._shown = ""

    def show(self, name: str, batch: Batch) -> None:
        """Print a batch of a stream. Raises `OutputClosed`."""
        if self._as_json:
            self.output.write(_json_line(batch, name if self.is_titled else None))
            return
        data = format_batch(batch)
        if data and self.is_titled and name != self._shown:
            gap = "\n" if self._shown else ""
            data = f"{gap}==> {name} <==\n".encode() + data
            self._shown = name
        self.output.write(data)


async def read_end(client: StreamClient, stream: Stream, count: int) -> Batch:
    """Return the last messages (JSON) or lines of a stream, in one batch that ends at its tail.

    A server with --listing sends only the end; otherwise the whole stream is read.
    """
    base = client.url.rstrip("/") + "/"
    if stream.url.startswith(base):
        try:
            found = await Operators(client).get(
                "bytes", stream=unquote(stream.url.removeprefix(base))
            )
        except (click.ClickException, Rejected):
            # No listing, or no grant for it.
            pass
        else:
            state = found["stream"]
            data = last_items(
                b64decode(found["data"]),
                count,
                is_json=content_types.is_json(state["content_type"]),
                is_whole=found["start"] == 0,
            )
            if data is not None:
                kind = state["content_type"]
                return Batch(kind, data, state["next_offset"], True, state["closed"])
    kept: deque[bytes] = deque(maxlen=count)
    rest = b""
    batch = Batch("", b"", None, True, False)
    async for batch in stream.read():
        if batch.is_json:
            kept.extend(batch.messages())
            continue
        lines = (rest + batch.data).split(b"\n")
        rest = lines.pop()
        kept.extend(line + b"\n" for line in lines)
    if batch.is_json:
        return replace(batch, data=b"[" + b",".join(kept) + b"]")
    if rest:
        kept.append(rest)
    return replace(batch, data=b"".join(kept))


def last_items(data: bytes, count: int, *, is_json: bool, is_whole: bool) -> bytes | None:
    """Return the last messages or lines of stored bytes, None if the bytes have too few.

    In JSON mode each stored message is followed by a comma, and the result is an array.
    ``is_whole`` means that the bytes begin at the start of the stream.
    """
    if not is_json:
        stop = data.endswith(b"\n")
        lines = data[:-1].split(b"\n") if stop else data.split(b"\n")
        if len(lines) <= count and not is_whole:
            return None
        return (b"\n".join(lines[-count:]) + (b"\n" if stop else b"")) if count else b""
    start = 0 if is_whole else data.find(b",") + 1
    for _ in range(_BOUNDARIES):
        array = b"[" + data[start:-1] + b"]"
        # A suffix is an array only if it begins at a message: a quote or a bracket would be missing
        # otherwise.
        if is_message(array):
            found = messages(array)
            enough = is_whole or len(found) >= count
            return b"[" + b",".join(found[-count:] if count else []) + b"]" if enough else None
        start = data.find(b",", start) + 1
        if not start:
            break
    return None


def first_items(batch: Batch, count: int | None) -> tuple[Batch, int]:
    """Return a batch with at most ``count`` messages or lines, and their number."""
    if count is None:
        return batch, 0
    if batch.is_json:
        found = batch.messages()[:count]
        return replace(batch, data=b"[" + b",".join(found) + b"]"), len(found)
    lines = batch.data.splitlines(keepends=True)[:count]
    return replace(batch, data=b"".join(lines)), sum(line.endswith(b"\n") for line in lines)


def format_batch(batch: Batch) -> bytes:
    """Return a batch as output: JSON messages one per line, other bytes unchanged."""
    if batch.is_json:
        return b"".join(on_one_line(message) + b"\n" for message in batch.messages())
    return batch.data


def _json_line(batch: Batch, name: str | None) -> bytes:
    """Return a batch as one line of JSON. Messages keep their bytes."""
    title = {} if name is None else {"stream": name}
    flags = json.encode(
        {**title, "offset": batch.offset, "upToDate": batch.up_to_date, "closed": batch.closed}
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


def _load_offset(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise click.FileError(str(path), getattr(error, "strerror", "not UTF-8 text")) from None


def _store_offset(path: Path | None, batch: Batch) -> None:
    if path is None or batch.offset is None:
        return
    # Write and rename: a reader of the file must not see a partial offset.
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_text(batch.offset + "\n", "utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise click.FileError(str(path), error.strerror or "cannot write") from None
