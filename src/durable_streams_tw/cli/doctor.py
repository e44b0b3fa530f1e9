"""Command ``doctor``: checks of the machine for a server with given settings."""

from __future__ import annotations

import os
import sys

import click

from durable_streams_tw.cli.settings_options import SettingsCommand
from durable_streams_tw.cli.store_options import with_json
from durable_streams_tw.cli.store_tasks import EXIT_UNSOUND
from durable_streams_tw.service.configuration import Configuration

_MARKS = {"good": ("OK", "green"), "warning": ("WARN", "yellow"), "bad": ("FAIL", "red")}


@click.command(cls=SettingsCommand)
@with_json
def doctor(configuration: Configuration, as_json: bool) -> None:
    """Check this machine for problems with a server of these settings.

    Checks the limits of open files and memory, the combination of timeouts, and the disk of the
    data directory (file system, free space, flush latency) or the database. Changes nothing, and
    can run next to a running server. Run it as the user of the server, with the same resource
    limits.

    Exit status: 0 no errors (warnings are possible), 1 errors.
    """
    from durable_streams_tw.cli.doctor_checks import run_checks

    results = list(run_checks(configuration))
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(results)).decode())
    else:
        for result in results:
            word, color = _MARKS[result.grade]
            mark = click.style(f"{word:<5}", fg=color, bold=True)
            click.echo(
                f"{mark} {result.name:<18} {result.sentence}",
                # https://no-color.org
                color=False if os.environ.get("NO_COLOR") else None,
            )
    if any(result.grade == "bad" for result in results):
        sys.exit(EXIT_UNSOUND)
