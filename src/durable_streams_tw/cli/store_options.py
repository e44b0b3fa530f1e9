"""Options of the store commands."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from durable_streams_tw.cli.settings_options import InvalidSettings
from durable_streams_tw.service.configuration import ConfigurationError, load_configuration
from durable_streams_tw.service.database import database_settings
from durable_streams_tw.service.settings_table import SETTINGS
from durable_streams_tw.service.sources import CONFIG_VARIABLE

_DIRECTORY = click.option(
    "--data-dir",
    "-d",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help=f"Data directory (default: ${SETTINGS['data-dir'].variable} or the file's data-dir).",
)
_FILE = click.option(
    "--config",
    "-c",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help=f"TOML file with the settings of the server (default: ${CONFIG_VARIABLE}).",
)


def with_data_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--data-dir`` and ``--config`` to a command, which receives them as ``directory``."""

    @functools.wraps(command)
    def called(data_dir: str | None, config: str | None, **options: Any) -> Any:
        return command(directory=_resolve(data_dir, config), **options)

    return _DIRECTORY(_FILE(called))


def with_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a data directory and of a database to a command.

    It receives ``directory`` and ``database``, the `DatabaseSettings`; one of them is None.
    """

    @functools.wraps(command)
    def called(
        data_dir: str | None,
        database: str | None,
        database_schema: str | None,
        config: str | None,
        **options: Any,
    ) -> Any:
        given = {"data-dir": data_dir, "database": database, "database-schema": database_schema}
        try:
            configuration = load_configuration(given, os.environ, config)
            settings = database_settings(configuration)
        except ConfigurationError as bad:
            raise InvalidSettings(bad) from None
        directory: str | None = configuration["data-dir"]
        if directory is None and settings is None:
            sentence = "No data directory is set. Use --data-dir DIR or --database URL."
            raise click.UsageError(sentence)
        return command(directory=directory, database=settings, **options)

    texts = {
        "database-schema": "Schema of the tables",
        "database": "PostgreSQL database, instead of a data directory",
    }
    for name, text in texts.items():
        row = SETTINGS[name]
        text = f"{text} (default: ${row.variable} or the file's {name})."
        called = click.option(f"--{name}", metavar=row.metavar, help=text)(called)
    return _DIRECTORY(_FILE(called))


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
