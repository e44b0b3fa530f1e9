"""``dev``: a server to try out, without any configuration."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import urljoin

import click

from durable_streams_tw.cli.settings_options import (
    InvalidSettings,
    SettingsCommand,
    given,
    with_dev_settings,
)
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.settings_table import TABLE
from durable_streams_tw.service.sources import CommandLine, ConfigurationError, Preset

PRESET = {setting.name: (setting.dev,) for setting in TABLE if setting.dev is not None}


@click.command(cls=SettingsCommand)
@with_dev_settings
def dev(**options: Any) -> None:
    """Serve streams from memory on this machine, to try out.

    Only this machine can reach it, and what is written is gone when it stops. Neither the
    environment nor a file is read. Ctrl-C stops it.
    """
    try:
        configuration = Configuration([CommandLine(given(options)), Preset(PRESET, "dev")])
        from durable_streams_tw.service.run import serve

        def greet(url: str) -> None:
            click.echo(greeting(url, console=configuration["console"]))

        status = serve(configuration, greet=greet, quiet=True)
    except ConfigurationError as bad:
        raise InvalidSettings(bad) from None
    if status == 0:
        # Behind the ^C that a terminal shows.
        click.echo("\nStopped.")
    sys.exit(status)


def greeting(url: str, *, console: bool) -> str:
    """What is said when the streams at this URL, with a slash at its end, can be reached: lines to
    be copied into another shell."""
    stream = f"{url}hello"
    look = f"\nLook at it in a browser:\n\n  {urljoin(url, '/-/console')}\n" if console else ""
    return f"""\
Durable streams are at {url}
in memory: what you write is gone when this stops. Ctrl-C stops it.

Make a stream, append to it, read it:

  curl -X PUT {stream} -H 'Content-Type: text/plain'
  curl -X POST {stream} -H 'Content-Type: text/plain' -d 'first line'
  curl {stream}

Follow it, while another shell appends:

  curl -N '{stream}?offset=-1&live=sse'
{look}"""
