"""Options of the store commands."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from durable_streams_tw.cli.settings_options import InvalidSettings
from durable_streams_tw.service.configuration import ConfigurationError, load_configuration
from durable_streams_tw.service.settings_table import SETTINGS
from durable_streams_tw.service.sources import CONFIG_VARIABLE


def with_data_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--data-dir`` and ``--config`` to a command, which receives them as ``directory``."""

    @functools.wraps(command)
    def called(data_dir: str | None, config: str | None, **options: Any) -> Any:
        return command(directory=_resolve(data_dir, config), **options)

    directory = click.option(
        "--data-dir",
        "-d",
        metavar="DIR",
        type=click.Path(file_okay=False),
        help=f"Data directory (default: ${SETTINGS['data-dir'].variable} or the file's data-dir).",
    )
    file = click.option(
        "--config",
        "-c",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help=f"TOML file with the settings of the server (default: ${CONFIG_VARIABLE}).",
    )
    return directory(file(called))


def _resolve(data_dir: str | None, config: str | None) -> str:
    """Return the data directory that `run` would use. Raises `click.ClickException`."""
    if data_dir is not None:
        return data_dir
    try:
        configuration = load_configuration({}, os.environ, config)
    except ConfigurationError as bad:
        raise InvalidSettings(bad) from None
    directory: str | None = configuration["data-dir"]
    if directory is None:
        raise click.UsageError("No data directory is set. Use --data-dir DIR.")
    return directory


#: Options of more than one command.
with_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
with_deep = click.option(
    "--deep", is_flag=True, help="Also parse every JSON message. Takes several times as long."
)
with_even_flawed = click.option(
    "--even-flawed", is_flag=True, help="Continue even if the store is damaged."
)
