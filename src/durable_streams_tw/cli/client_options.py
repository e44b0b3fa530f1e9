"""What all client commands share: where the streams are, and who asks."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from msgspec import Struct

from durable_streams_tw.cli.registry import PROGRAM
from durable_streams_tw.client.errors import BadTarget
from durable_streams_tw.client.urls import DEFAULT_BASE, Target, target_of

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", re.ASCII)
_SECONDS: Final = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# RFC 9110 §5.1, §5.5.
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")

#: Variables of the environment. The server passes over them.
URL: Final = "DURABLE_STREAMS_URL"
TOKEN: Final = "DURABLE_STREAMS_TOKEN"
TOKEN_FILE: Final = "DURABLE_STREAMS_TOKEN_FILE"
HEADERS: Final = "DURABLE_STREAMS_HEADERS"
CACERT: Final = "DURABLE_STREAMS_CACERT"


class Duration(click.ParamType["float | None"]):
    """A time such as ``90``, ``500ms``, ``1.5h`` or ``7d``, in seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """The seconds; None for ``forever``, where the option has that."""
        if isinstance(value, float):
            return value
        if value == "forever":
            return None
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no time such as 90, 500ms, 5m, 1.5h or 7d", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


class ClientOptions(Struct, frozen=True):
    """Who asks, and how stubbornly.

    ``retry_for`` is in seconds, None for ever.
    """

    base: str
    token: str | None
    token_file: str | None
    headers: tuple[str, ...]
    cacert: str | None
    retry_for: float | None
    quiet: bool

    def target(self, name: str) -> Target:
        """The stream that a user means. Raises a usage error."""
        base = self.base if "://" in self.base else f"http://{self.base}"
        try:
            return target_of(name, base)
        except BadTarget as error:
            raise click.UsageError(str(error)) from None

    def fields(self) -> dict[str, str]:
        """The fields of the next request. A token's file is read for each: whoever renews a
        token writes the new one there."""
        fields = dict(map(_field, self.headers))
        token = self.token
        if token is None and self.token_file is not None:
            token = _read(self.token_file).strip()
        if token:
            fields["Authorization"] = f"Bearer {token}"
        return fields

    def client(self, reactor: Any, *targets: Target) -> Any:
        """A `StreamClient` for these streams."""
        from twisted.web.client import Agent, HTTPConnectionPool

        from durable_streams_tw.client.streams import StreamClient
        from durable_streams_tw.client.transport import Wire
        from durable_streams_tw.outgoing.resolver import Resolver, ResolvingReactor

        pool = HTTPConnectionPool(reactor)
        # What may be asked twice, the client decides.
        pool.retryAutomatically = False
        more: dict[str, Any] = {}
        if any(target.url.startswith("https:") for target in targets):
            more["contextFactory"] = _trust(self.cacert)
        resolving: Any = ResolvingReactor(reactor, Resolver(reactor))
        agent = Agent(resolving, connectTimeout=10.0, pool=pool, **more)
        known = [target.authorization for target in targets if target.authorization is not None]
        own = {"Authorization": known[0]} if known else {}

        def notice(sentence: str) -> None:
            if not self.quiet:
                click.echo(f"{PROGRAM}: {sentence}", err=True)

        return StreamClient(
            Wire(agent, reactor),
            lambda: {**own, **self.fields()},
            endure=self.retry_for,
            notice=notice,
        )


def with_client_options(
    retry_for: str = "30s",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a client; its ``access`` is what came of them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(
            url: str,
            token: str | None,
            token_file: str | None,
            header: tuple[str, ...],
            cacert: str | None,
            retry_for: float | None,
            quiet: bool,
            **options: Any,
        ) -> Any:
            headers = (*_lines(os.environ.get(HEADERS, "")), *_spelled(header))
            for line in headers:
                _field(line)
            access = ClientOptions(url, token, token_file, headers, cacert, retry_for, quiet)
            access.fields()
            return command(access=access, **options)

        for option in reversed(_options(retry_for)):
            called = option(called)
        return called

    return decorate


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--json``."""
    option = click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, for programs; errors too."
    )
    return option(command)


def _options(retry_for: str) -> list[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    return [
        click.option(
            "--url",
            metavar="URL",
            envvar=URL,
            default=DEFAULT_BASE,
            show_default=True,
            help=f"Where streams are that are given by name. [{URL}]",
        ),
        click.option(
            "--token",
            metavar="TOKEN",
            envvar=TOKEN,
            help="A bearer token. Others on this machine can see it among the processes: better "
            f"use the file, or the environment. [{TOKEN}]",
        ),
        click.option(
            "--token-file",
            metavar="FILE",
            envvar=TOKEN_FILE,
            type=click.Path(dir_okay=False),
            help=f"A file with the token, read anew for every request. [{TOKEN_FILE}]",
        ),
        click.option(
            "-H",
            "--header",
            metavar="LINE",
            multiple=True,
            help="A field for every request, as 'Name: value', or @FILE with one a line; "
            f"repeatable. [{HEADERS}: one a line]",
        ),
        click.option(
            "--cacert",
            metavar="FILE",
            envvar=CACERT,
            type=click.Path(exists=True, dir_okay=False),
            help=f"Trust the certificates in this PEM file, and no others. [{CACERT}]",
        ),
        click.option(
            "--retry-for",
            metavar="TIME",
            type=Duration(),
            default=retry_for,
            show_default=True,
            help="How long failures that may pass are endured: 0 for not at all, or forever.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing of failures that may pass."),
    ]


def _spelled(given: tuple[str, ...]) -> list[str]:
    lines = []
    for line in given:
        lines += _lines(_read(line[1:])) if line.startswith("@") else [line]
    return lines


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _field(line: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        # Not the line itself: there may be a secret in it.
        raise click.UsageError("a header is a line such as 'Name: value'")
    return match[1], match[2].rstrip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise click.FileError(path, reason) from None


def _trust(cacert: str | None) -> Any:
    from twisted.internet.ssl import Certificate, trustRootFromCertificates
    from twisted.web.client import BrowserLikePolicyForHTTPS

    if cacert is None:
        return BrowserLikePolicyForHTTPS()
    blocks = re.findall(
        "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", _read(cacert), re.DOTALL
    )
    if not blocks:
        raise click.UsageError(f"{cacert} has no certificate in PEM form")
    trusted = trustRootFromCertificates([Certificate.loadPEM(block) for block in blocks])
    return BrowserLikePolicyForHTTPS(trustRoot=trusted)
