"""Options of click commands, built from the table of settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from durable_streams_tw.service.configuration import Configuration, load_configuration
from durable_streams_tw.service.settings_table import TABLE, Setting
from durable_streams_tw.service.sources import CONFIG_VARIABLE, ConfigurationError


class InvalidSettings(click.ClickException):
    """The settings are invalid: prints one line for each error, exits with status 2."""

    exit_code = 2

    def __init__(self, bad: ConfigurationError) -> None:
        super().__init__("\n       ".join(bad.problems))


class SettingsCommand(click.Command):
    """Command whose help lists its own options, then the settings by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the command, then the settings by group."""
        rows: dict[str, list[tuple[str, str]]] = {"Options": []}
        groups = {setting.name: setting.group for setting in TABLE}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                name = (parameter.name or "").replace("_", "-")
                rows.setdefault(groups.get(name, "Options"), []).append(record)
        for group, records in rows.items():
            with formatter.section(group):
                formatter.write_dl(records)


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each setting, and ``--config``, to a command."""
    for setting in reversed(TABLE):
        command = _option(setting, setting.default)(command)
    file = click.option(
        "--config",
        "-c",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help=f"TOML file with settings (default: ${CONFIG_VARIABLE})",
    )
    return file(command)


def with_dev_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each setting that ``dev`` supports to a command."""
    for setting in reversed(TABLE):
        if setting.in_dev:
            command = _option(setting, setting.dev or setting.default)(command)
    return command


def given(parameters: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the texts of the options that were given on the command line."""
    found: dict[str, tuple[str, ...]] = {}
    for setting in TABLE:
        value = parameters.get(setting.name.replace("-", "_"))
        if setting.kind == "list":
            if value:
                found[setting.name] = tuple(value)
        elif setting.kind == "flag":
            if value is not None:
                found[setting.name] = ("true" if value else "false",)
        elif value is not None:
            found[setting.name] = (value,)
    return found


def configuration_of(parameters: Mapping[str, Any]) -> Configuration:
    """Return the effective settings of a command: options, environment, file, defaults.

    Raises `InvalidSettings`.
    """
    try:
        return load_configuration(given(parameters), os.environ, parameters.get("config"))
    except ConfigurationError as bad:
        raise InvalidSettings(bad) from None


def _option(
    setting: Setting, default: str | None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    names = [f"--{setting.name}"]
    if setting.short is not None:
        names.append(f"-{setting.short}")
    text = setting.meaning
    if setting.kind == "flag":
        state = "on" if default == "true" else "off"
        return click.option(
            f"--{setting.name}/--no-{setting.name}", default=None, help=f"{text} (default: {state})"
        )
    if default is not None:
        text = f"{text} (default: {default})"
    return click.option(
        *names,
        metavar=setting.metavar,
        multiple=setting.kind == "list",
        help=text,
        type=click.Path(file_okay=False) if setting.directory else str,
        shell_complete=_choice_completer(setting.choices) if setting.choices else None,
    )


def _choice_completer(choices: tuple[str, ...]) -> Callable[..., list[str]]:
    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        return [word for word in choices if word.startswith(incomplete)]

    return complete
