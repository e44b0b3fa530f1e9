"""Command ``run``: the server in the foreground."""

from __future__ import annotations

import sys
from typing import Any

import click

from durable_streams_tw.cli.settings_options import (
    InvalidSettings,
    SettingsCommand,
    configuration_of,
    with_settings,
)
from durable_streams_tw.service.sources import ConfigurationError


@click.command(cls=SettingsCommand)
@with_settings
def run(**options: Any) -> None:
    """Run the server in the foreground.

    Logs to standard output. Stops on SIGTERM or Ctrl-C.

    Options (--max-body) override environment variables (DURABLE_STREAMS_MAX_BODY), which override
    the file (max-body), which overrides the defaults.
    """
    configuration = configuration_of(options)
    # Imported here: invalid settings are reported without waiting for the import of Twisted.
    from durable_streams_tw.service.run import serve

    try:
        sys.exit(serve(configuration))
    except ConfigurationError as bad:
        raise InvalidSettings(bad) from None
