"""Command ``dev``: a development server without configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

import click

from durable_streams_tw.cli.settings_options import SettingsCommand, option
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.settings_table import SETTINGS
from durable_streams_tw.service.sources import command_line, preset

PRESET = {row.name: row.dev for row in SETTINGS.values() if row.dev is not None}


class DevCommand(SettingsCommand):
    """Command whose settings come from its options and `PRESET` only."""

    def options(self) -> list[click.Parameter]:
        """Return the options that the command supports."""
        rows = [row for row in SETTINGS.values() if row.in_dev]
        return [option(row, PRESET.get(row.name, row.default)) for row in rows]

    def load(self, values: Mapping[str, Any], file: str | None) -> Configuration:
        """Return the settings: options override `PRESET`."""
        return Configuration([command_line(values), preset("dev", PRESET)])


@click.command(cls=DevCommand)
def dev(configuration: Configuration) -> None:
    """Run a development server: console, access log, streams in memory.

    Listens on 127.0.0.1 unless --interface names another address. Streams are lost when it stops
    unless --data-dir stores them. Reads no environment variables and no file. Ctrl-C stops it.
    """
    from durable_streams_tw.service.run import serve

    def greet(url: str) -> None:
        click.echo(greeting(url, configuration["data-dir"], console=configuration["console"]))

    status = serve(configuration, greet=greet)
    if status == 0:
        # Start on a new line, after the ^C that a terminal prints.
        click.echo("\nStopped.")
    sys.exit(status)


def greeting(url: str, data_dir: str | None, *, console: bool) -> str:
    """Return the text that ``dev`` prints once it listens, with commands to copy.

    ``url`` is the URL of the streams, with a trailing slash.
    """
    storage = (
        f"Streams are stored in {data_dir}."
        if data_dir
        else "Streams are in memory and are lost when the server stops."
    )
    stream = f"{url}hello"
    look = f"\nOpen the console in a browser:\n\n  {urljoin(url, '/')}\n" if console else ""
    return f"""\
Durable streams are at {url}
{storage} Press Ctrl-C to stop.

Create a stream, append to it, read it:

  curl -X PUT {stream} -H 'Content-Type: text/plain'
  curl -X POST {stream} -H 'Content-Type: text/plain' -d 'first line'
  curl {stream}

Follow the stream while another shell appends:

  curl -N '{stream}?offset=-1&live=sse'
{look}"""
