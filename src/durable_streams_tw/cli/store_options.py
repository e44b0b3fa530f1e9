"""Which data directory a store command is about."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from durable_streams_tw.cli.settings_options import InvalidSettings
from durable_streams_tw.service.configuration import load_configuration
from durable_streams_tw.service.settings_table import SETTINGS
from durable_streams_tw.service.sources import CONFIG_VARIABLE, ConfigurationError


def with_data_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--data-dir`` and ``--config``."""
    directory = click.option(
        "--data-dir",
        "-d",
        metavar="DIR",
        type=click.Path(file_okay=False),
        help="The data directory. Else the one of the environment "
        f"({SETTINGS['data-dir'].variable}) or of the file.",
    )
    file = click.option(
        "--config",
        "-c",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help=f"TOML file with the server's settings. Else the one that {CONFIG_VARIABLE} names.",
    )
    return directory(file(command))


def chosen(data_dir: str | None, config: str | None) -> str:
    """The data directory that is meant, as `run` would find it. Raises click's exceptions."""
    if data_dir is not None:
        return data_dir
    try:
        configuration = load_configuration({}, os.environ, config)
    except ConfigurationError as bad:
        raise InvalidSettings(bad) from None
    directory: str | None = configuration["data-dir"]
    if directory is None:
        raise click.UsageError("which data directory? Say --data-dir DIR")
    return directory


#: The options of more than one command.
with_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
with_deep = click.option(
    "--deep", is_flag=True, help="Parse every JSON message too. Takes several times as long."
)
with_even_flawed = click.option(
    "--even-flawed", is_flag=True, help="Go on when the store is not sound."
)
