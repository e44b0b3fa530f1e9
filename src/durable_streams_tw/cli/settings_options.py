"""Click commands with an option for each setting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from durable_streams_tw.service.configuration import (
    Configuration,
    ConfigurationError,
    load_configuration,
)
from durable_streams_tw.service.settings_table import GROUPS, SETTINGS, Setting
from durable_streams_tw.service.sources import CONFIG_VARIABLE


class InvalidSettings(click.ClickException):
    """The settings are invalid: prints one line for each error, exits with status 2."""

    exit_code = 2

    def __init__(self, bad: ConfigurationError) -> None:
        super().__init__("\n       ".join(bad.problems))


class SettingsCommand(click.Command):
    """Command with ``--config`` and an option for each setting.

    Its callback gets the effective `Configuration` and may raise `ConfigurationError`.
    """

    def __init__(self, params: list[click.Parameter], **more: Any) -> None:
        super().__init__(params=[*params, *self.options()], **more)

    def options(self) -> list[click.Parameter]:
        """Return the options of the settings."""
        file = click.Option(
            ["--config", "-c"],
            metavar="FILE",
            type=click.Path(dir_okay=False),
            help=f"TOML file with settings (default: ${CONFIG_VARIABLE})",
        )
        return [file, *(option(setting, setting.default) for setting in SETTINGS.values())]

    def load(self, values: Mapping[str, Any], file: str | None) -> Configuration:
        """Return the settings: options override the environment, which overrides the file."""
        return load_configuration(values, os.environ, file)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the callback. Raises `InvalidSettings`."""
        file = ctx.params.pop("config", None)
        values = {name: ctx.params.pop(name.replace("-", "_"), None) for name in SETTINGS}
        try:
            ctx.params["configuration"] = self.load(values, file)
            return super().invoke(ctx)
        except ConfigurationError as bad:
            raise InvalidSettings(bad) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the command, then the settings by group."""
        records = {option.name: option.get_help_record(ctx) for option in self.get_params(ctx)}
        sections = {
            group: [records.pop(setting.name.replace("-", "_"), None) for setting in settings]
            for group, settings in GROUPS.items()
        }
        for title, rows in {"Options": records.values(), **sections}.items():
            with formatter.section(title):
                formatter.write_dl([row for row in rows if row is not None])


def option(setting: Setting, default: str | None) -> click.Option:
    """Return the option of a setting. ``default`` is only for its help text."""
    if setting.kind == "flag":
        text = setting.help("on" if default == "true" else "off")
        return click.Option([f"--{setting.name}/--no-{setting.name}"], default=None, help=text)

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        return [word for word in setting.choices if word.startswith(incomplete)]

    short = [] if setting.short is None else [f"-{setting.short}"]
    return click.Option(
        [f"--{setting.name}", *short],
        metavar=setting.metavar,
        multiple=setting.kind == "list",
        help=setting.help(default),
        type=click.Path(file_okay=False) if setting.directory else str,
        shell_complete=complete if setting.choices else None,
    )
