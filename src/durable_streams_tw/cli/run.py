"""``run``: the server in the foreground."""

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

    Until SIGTERM or Ctrl-C, logging to standard output. An option stands before the variable of
    the environment of the same name (--max-body: DURABLE_STREAMS_MAX_BODY), that before the key
    in the file (max-body), and that before the default.
    """
    configuration = configuration_of(options)
    # Twisted only now: settings that are wrong are refused at once.
    from durable_streams_tw.service.run import serve

    try:
        sys.exit(serve(configuration))
    except ConfigurationError as bad:
        raise InvalidSettings(bad) from None
