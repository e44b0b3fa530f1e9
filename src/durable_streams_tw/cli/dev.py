"""Command ``dev``: a development server without configuration."""

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
    """Run a development server on this machine, with streams in memory.

    Listens on 127.0.0.1 only; streams are lost when it stops. Reads no environment variables and
    no file. Ctrl-C stops it.
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
        # Start on a new line, after the ^C that a terminal prints.
        click.echo("\nStopped.")
    sys.exit(status)


def greeting(url: str, *, console: bool) -> str:
    """Return the text that ``dev`` prints once it listens, with commands to copy.

    ``url`` is the URL of the streams, with a trailing slash.
    """
    stream = f"{url}hello"
    look = (
        f"\nOpen the console in a browser:\n\n  {urljoin(url, '/-/console')}\n" if console else ""
    )
    return f"""\
Durable streams are at {url}
Streams are in memory and are lost when the server stops. Press Ctrl-C to stop.

Create a stream, append to it, read it:

  curl -X PUT {stream} -H 'Content-Type: text/plain'
  curl -X POST {stream} -H 'Content-Type: text/plain' -d 'first line'
  curl {stream}

Follow the stream while another shell appends:

  curl -N '{stream}?offset=-1&live=sse'
{look}"""
