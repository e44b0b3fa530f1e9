"""``doctor``: will a server with these settings be well on this machine?"""

from __future__ import annotations

import sys
from typing import Any

import click

from durable_streams_tw.cli.settings_options import (
    SettingsCommand,
    configuration_of,
    with_settings,
)
from durable_streams_tw.cli.store_options import with_json
from durable_streams_tw.cli.store_tasks import EXIT_UNSOUND

_MARKS = {"good": "good", "warning": "look", "bad": "BAD"}


@click.command(cls=SettingsCommand)
@with_settings
@with_json
def doctor(as_json: bool, **options: Any) -> None:
    """Say what on this machine would trouble a server with these settings.

    Looks at limits of files and memory, the data directory's disk (kind, room, how long a flush
    takes) and at timeouts against each other. Changes nothing, also beside a running server.
    Run it as the server's user, with the server's limits.

    Exit status: 0 nothing is bad (there may be warnings), 1 something is.
    """
    configuration = configuration_of(options)
    from durable_streams_tw.cli.doctor_checks import run_checks

    results = list(run_checks(configuration))
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(results)).decode())
    else:
        for result in results:
            click.echo(f"{_MARKS[result.grade]:<5} {result.name:<18} {result.sentence}")
    if any(result.grade == "bad" for result in results):
        sys.exit(EXIT_UNSOUND)
