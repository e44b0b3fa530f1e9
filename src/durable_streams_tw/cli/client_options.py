"""Client commands and the options common to all of them: server, credentials, retries."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import Struct

from durable_streams_tw.cli.client_run import run
from durable_streams_tw.cli.registry import PROGRAM
from durable_streams_tw.client.urls import DEFAULT_BASE

if TYPE_CHECKING:
    from durable_streams_tw.client import StreamClient

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", re.ASCII)
_SECONDS: Final = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# RFC 9110 §5.1, §5.5.
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")

#: Environment variables of the client commands, which the server ignores.
URL: Final = "DURABLE_STREAMS_URL"
TOKEN: Final = "DURABLE_STREAMS_TOKEN"
TOKEN_FILE: Final = "DURABLE_STREAMS_TOKEN_FILE"
HEADERS: Final = "DURABLE_STREAMS_HEADERS"
CACERT: Final = "DURABLE_STREAMS_CACERT"


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
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(
                f"expected a time such as 90, 500ms, 5m, 1.5h or 7d, got {value!r}", param, ctx
            )
        return float(match[1]) * _SECONDS[match[2]]


class ClientOptions(Struct, frozen=True):
    """Values of the options common to all client commands.

    ``retry_for`` is in seconds, None for no limit.
    """

    base: str
    token: str | None
    token_file: str | None
    headers: tuple[str, ...]
    cacert: str | None
    retry_for: float | None
    quiet: bool

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
        return headers

    def client(self, reactor: Any) -> StreamClient:
        """Return a client of the server."""
        from durable_streams_tw.client import RetryEvent, RetryPolicy, StreamClient

        def on_retry(event: RetryEvent) -> None:
            if event.attempt == 1 and not self.quiet:
                click.echo(f"{PROGRAM}: {event.error}; trying again", err=True)

        return StreamClient(
            self.base if "://" in self.base else f"http://{self.base}",
            headers=self.request_headers,
            ca_file=self.cacert,
            retry=RetryPolicy(retry_for=self.retry_for),
            on_retry=on_retry,
            reactor=reactor,
        )


def client_command(
    retry_for: str = "30s",
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], click.Command]:
    """Return a decorator that makes a command of a coroutine function.

    The command runs the reactor until the coroutine ends. The function receives `Stream` objects as
    ``stream`` and ``source``, ``as_json``, and its own options.
    """

    def decorate(main: Callable[..., Coroutine[Any, Any, None]]) -> click.Command:
        @functools.wraps(main)
        def called(
            url: str,
            token: str | None,
            token_file: str | None,
            header: tuple[str, ...],
            cacert: str | None,
            retry_for: float | None,
            quiet: bool,
            as_json: bool,
            **options: Any,
        ) -> None:
            headers = (*_lines(os.environ.get(HEADERS, "")), *_expand_header_files(header))
            access = ClientOptions(url, token, token_file, headers, cacert, retry_for, quiet)
            # Report invalid headers and an unreadable token file before the reactor runs.
            access.request_headers()

            async def work(reactor: Any) -> None:
                client = access.client(reactor)
                for name in options.keys() & {"stream", "source"}:
                    options[name] = client.stream(options[name])
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
            envvar=URL,
            default=DEFAULT_BASE,
            show_default=True,
            help=f"Base URL of streams given by name. [{URL}]",
        ),
        click.Option(
            ["--token"],
            metavar="TOKEN",
            envvar=TOKEN,
            help="Bearer token. Other users of this machine can see it in the process list: prefer "
            f"--token-file or the environment variable. [{TOKEN}]",
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
        click.Option(["-q", "--quiet"], is_flag=True, help="Do not report retries."),
    ]


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
