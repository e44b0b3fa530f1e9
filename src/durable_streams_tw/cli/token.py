"""Command ``token``: a new bearer token and its entry in a token file."""

from __future__ import annotations

import json
from datetime import datetime
from secrets import token_bytes

import click

from durable_streams_tw.auth.grants import MalformedGrants, grants_of
from durable_streams_tw.auth.token_file import ENTROPY, digest_of, new_token


@click.command()
@click.argument("name")
@click.option(
    "--grant",
    "grants",
    multiple=True,
    required=True,
    metavar="VERBS[:PATH]",
    help="Permission such as read,append:jobs; without a path: for all streams; repeatable.",
)
@click.option(
    "--expires",
    metavar="TIME",
    help="Time of expiry with a time zone, such as 2030-01-31T12:00:00Z.",
)
def token(name: str, grants: tuple[str, ...], expires: str | None) -> None:
    """Create a bearer token and its entry for a token file.

    Prints the token on standard error, only this once, and the entry on standard output. The entry
    has only a hash of the token:

    \b
    durable-streams-server token worker --grant read,append:jobs >> tokens.toml
    """
    lines = [f"[tokens.{json.dumps(name)}]"]
    secret = new_token(token_bytes(ENTROPY))
    lines.append(f'sha256 = "{digest_of(secret).hex()}"')
    if expires is not None:
        lines.append(f"expires = {_moment(expires)}")
    rows = []
    for text in grants:
        verbs, _, path = text.partition(":")
        grant = {"path": path, "verbs": [verb.strip() for verb in verbs.split(",")]}
        try:
            grants_of([grant], strict=True)
        except MalformedGrants as error:
            raise click.UsageError(f"--grant {text}: {error}") from None
        rows.append(f"    {{ path = {json.dumps(path)}, verbs = {json.dumps(grant['verbs'])} }},")
    lines += ["grants = [", *rows, "]", ""]
    click.echo("\n".join(lines))
    click.echo(f"Token (shown only once):\n{secret}", err=True)


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.UsageError(
            "--expires: expected a time with a time zone, such as 2030-01-31T12:00:00Z"
        )
    return moment.isoformat()
