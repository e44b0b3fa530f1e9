"""Client commands and the options common to all of them: server, credentials, retries."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click
from msgspec import Struct

from durable_streams_tw.cli.client_run import run
from durable_streams_tw.cli.registry import PROGRAM
from durable_streams_tw.client.urls import DEFAULT_BASE
from durable_streams_tw.service import value_parsers

if TYPE_CHECKING:
    from durable_streams_tw.client import StreamClient

# RFC 9110 §5.1, §5.5.
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")

#: Port and perhaps path without a scheme, such as ``localhost:4437/v1/stream/a``.
_WITHOUT_SCHEME: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}(?:/.*)?")
_WITHOUT_PATH: Final = re.compile(r"https?://[^/?#]+", re.IGNORECASE)

#: Environment variables of the client commands, which the server ignores. The last two are those
#: of the protocol's own command line.
URL: Final = "DURABLE_STREAMS_URL"
TOKEN: Final = "DURABLE_STREAMS_TOKEN"
TOKEN_FILE: Final = "DURABLE_STREAMS_TOKEN_FILE"
HEADERS: Final = "DURABLE_STREAMS_HEADERS"
CACERT: Final = "DURABLE_STREAMS_CACERT"
STREAM_URL: Final = "STREAM_URL"
STREAM_AUTH: Final = "STREAM_AUTH"


class Duration(click.ParamType["float | None"]):
    """Parameter type of a time such as ``90``, ``500ms``, ``1.5h`` or ``7d``, in seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """Return the seconds, None for ``forever``."""
        if isinstance(value, float):
            return value
        if value == "forever":
            return None
        try:
            return value_parsers.duration(value)
        except value_parsers.InvalidValue as invalid:
            self.fail(f"{invalid}, got {value!r}", param, ctx)


class ClientOptions(Struct, frozen=True):
    """Values of the options common to all client commands.

    ``authorization`` is an Authorization header, for use without a token. ``retry_for`` is in
    seconds, None for no limit. Without ``wait``, commands fail if no server listens at first.
    """

    base: str
    token: str | None
    token_file: str | None
    headers: tuple[str, ...]
    cacert: str | None
    retry_for: float | None
    quiet: bool
    wait: bool = False
    authorization: str | None = None

    def request_headers(self) -> dict[str, str]:
        """Return the headers of the next request.

        The token file is read each time, so that a renewed token takes effect.
        """
        headers = dict(map(_parse_header, self.headers))
        token = self.token
        if token is None and self.token_file is not None:
            token = _read(self.token_file).strip()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        elif self.authorization:
            headers.setdefault("Authorization", self.authorization)
        return headers

    def client(self, reactor: Any) -> StreamClient:
        """Return a client of the server."""
        from durable_streams_tw.client import RetryEvent, RetryPolicy, StreamClient

        def on_retry(event: RetryEvent) -> None:
            # The end of the command cuts requests in progress.
            if event.attempt == 1 and not self.quiet and reactor.running:
                click.echo(f"{PROGRAM}: {event.error}; trying again", err=True)

        return StreamClient(
            base_url(self.base),
            headers=self.request_headers,
            ca_file=self.cacert,
            retry=RetryPolicy(retry_for=self.retry_for, wait_for_server=self.wait),
            on_retry=on_retry,
            reactor=reactor,
        )


def client_command(
    retry_for: str = "30s",
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], click.Command]:
    """Return a decorator that makes a command of a coroutine function.

    The command runs the reactor until the coroutine ends. The function receives `Stream` objects as
    ``stream`` and ``source``, the `StreamClient` as ``client`` if it has that parameter,
    ``as_json``, and its own options.
    """

    def decorate(main: Callable[..., Coroutine[Any, Any, None]]) -> click.Command:
        needs_client = "client" in inspect.signature(main).parameters

        @functools.wraps(main)
        def called(
            url: str,
            token: str | None,
            token_file: str | None,
            header: tuple[str, ...],
            cacert: str | None,
            retry_for: float | None,
            wait: bool,
            quiet: bool,
            as_json: bool,
            **options: Any,
        ) -> None:
            headers = (*_lines(os.environ.get(HEADERS, "")), *_expand_header_files(header))
            authorization = os.environ.get(STREAM_AUTH)
            access = ClientOptions(
                url, token, token_file, headers, cacert, retry_for, quiet, wait, authorization
            )
            # Report invalid headers and an unreadable token file before the reactor runs.
            access.request_headers()

            async def work(reactor: Any) -> None:
                client = access.client(reactor)
                for name in options.keys() & {"stream", "source"}:
                    options[name] = client.stream(with_scheme(options[name]))
                if needs_client:
                    options["client"] = client
                await main(as_json=as_json, **options)

            run(work, as_json=as_json)

        command = click.command()(called)
        command.params += _options(retry_for)
        return command

    return decorate


def _options(retry_for: str) -> list[click.Parameter]:
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="Print results and errors as JSON."),
        click.Option(
            ["--url"],
            metavar="URL",
            envvar=[URL, STREAM_URL],
            default=DEFAULT_BASE,
            show_default=True,
            help=f"Base URL of streams given by name. [{URL}, {STREAM_URL}]",
        ),
        click.Option(
            ["--token"],
            metavar="TOKEN",
            envvar=TOKEN,
            help="Bearer token. Other users of this machine can see it in the process list: prefer "
            f"--token-file or the environment variable. [{TOKEN}; {STREAM_AUTH}: a whole "
            "Authorization header]",
        ),
        click.Option(
            ["--token-file"],
            metavar="FILE",
            envvar=TOKEN_FILE,
            type=click.Path(dir_okay=False),
            help=f"File with the bearer token, read for each request. [{TOKEN_FILE}]",
        ),
        click.Option(
            ["-H", "--header"],
            metavar="LINE",
            multiple=True,
            help="Additional request header 'Name: value', or @FILE with one per line; repeatable. "
            f"[{HEADERS}: one per line]",
        ),
        click.Option(
            ["--cacert"],
            metavar="FILE",
            envvar=CACERT,
            type=click.Path(exists=True, dir_okay=False),
            help=f"PEM file of CA certificates to trust instead of the system's. [{CACERT}]",
        ),
        click.Option(
            ["--retry-for"],
            metavar="TIME",
            type=Duration(),
            default=retry_for,
            show_default=True,
            help="How long to retry transient errors; 0 for no retries, or forever.",
        ),
        click.Option(
            ["--wait"],
            is_flag=True,
            help="Wait for a server that does not listen yet, as long as --retry-for says.",
        ),
        click.Option(["-q", "--quiet"], is_flag=True, help="Do not report retries."),
    ]


def with_scheme(name: str) -> str:
    """Return a stream name; one that begins with a host and a port becomes an http URL."""
    return f"http://{name}" if _WITHOUT_SCHEME.fullmatch(name) else name


def base_url(text: str) -> str:
    """Return the base URL that a user means: by default http, and the protocol's default path."""
    url = text if "://" in text else f"http://{text}"
    return url + urlsplit(DEFAULT_BASE).path if _WITHOUT_PATH.fullmatch(url) else url


def _expand_header_files(given: tuple[str, ...]) -> list[str]:
    lines = []
    for line in given:
        lines += _lines(_read(line[1:])) if line.startswith("@") else [line]
    return lines


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _parse_header(line: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        # The message must not contain the header: it may be a secret.
        raise click.UsageError("Invalid header: expected 'Name: value'.")
    return match[1], match[2].rstrip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise click.FileError(path, reason) from None
