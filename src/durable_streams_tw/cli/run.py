"""Command ``run``: the server in the foreground."""

from __future__ import annotations

import sys

import click

from durable_streams_tw.cli.settings_options import SettingsCommand
from durable_streams_tw.service.configuration import Configuration


@click.command(cls=SettingsCommand)
def run(configuration: Configuration) -> None:
    """Run the server in the foreground.

    Logs to standard output. Stops on SIGTERM or Ctrl-C.

    Options (--max-body) override environment variables (DURABLE_STREAMS_MAX_BODY), which override
    the file (max-body), which overrides the defaults.
    """
    # Imported here: invalid settings are reported without waiting for the import of Twisted.
    from durable_streams_tw.service.run import serve

    sys.exit(serve(configuration))
