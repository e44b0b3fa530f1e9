"""The table of settings as options of click commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from durable_streams_tw.service.configuration import Configuration, load_configuration
from durable_streams_tw.service.settings_table import TABLE, Setting
from durable_streams_tw.service.sources import CONFIG_VARIABLE, ConfigurationError


class InvalidSettings(click.ClickException):
    """Settings that cannot be used: said in a sentence for each, with exit status 2."""

    exit_code = 2

    def __init__(self, bad: ConfigurationError) -> None:
        super().__init__("\n       ".join(bad.problems))


class SettingsCommand(click.Command):
    """A command whose help lists settings by their groups, behind its own options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Its own options first."""
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
    """Give a command an option for every setting, and ``--config``."""
    for setting in reversed(TABLE):
        command = _option(setting, setting.default)(command)
    file = click.option(
        "--config",
        "-c",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help=f"TOML file with settings. Else the one that {CONFIG_VARIABLE} names.",
    )
    return file(command)


def with_dev_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for every setting that ``dev`` has."""
    for setting in reversed(TABLE):
        if setting.in_dev:
            command = _option(setting, setting.dev or setting.default)(command)
    return command


def given(parameters: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The texts of the options that a command was given."""
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
    """The settings that a command runs with: its options, the environment, a file.

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
        shell_complete=_words(setting.choices) if setting.choices else None,
    )


def _words(choices: tuple[str, ...]) -> Callable[..., list[str]]:
    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        return [word for word in choices if word.startswith(incomplete)]

    return complete
