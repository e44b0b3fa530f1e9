"""Commands ``config check`` and ``config show``."""

from __future__ import annotations

import re
from typing import Any

import click

from durable_streams_tw.cli.settings_options import (
    InvalidSettings,
    SettingsCommand,
    configuration_of,
    with_settings,
)
from durable_streams_tw.service.configuration import Configuration
from durable_streams_tw.service.settings_table import TABLE, Setting
from durable_streams_tw.service.sources import ConfigurationError


@click.group()
def config() -> None:
    """Check or show the settings of a server.

    Both commands accept the options of `run` and read the same environment and file.
    """


@config.command(cls=SettingsCommand)
@with_settings
def check(**options: Any) -> None:
    """Check whether `run` would accept these settings.

    Opens no port and writes no file. Exit status: 0 valid, 2 invalid.
    """
    configuration = configuration_of(options)
    # Imported here: importing Twisted is slow.
    from durable_streams_tw.service.listening import endpoints

    try:
        endpoints(configuration)
        if configuration["auth"]:
            from durable_streams_tw.service.auth_checkers import checkers

            checkers(configuration)
    except ConfigurationError as bad:
        raise InvalidSettings(bad) from None
    click.echo("The settings are valid.")


@config.command(cls=SettingsCommand)
@with_settings
def show(**options: Any) -> None:
    """Print the effective settings and the source of each.

    The output is a valid configuration file. Secrets are redacted.
    """
    click.echo(format_settings(configuration_of(options)), nl=False)


def format_settings(configuration: Configuration) -> str:
    """Return the settings as a configuration file with the origin of each as a comment."""
    lines: list[tuple[str, str]] = []
    group = ""
    for setting in TABLE:
        if setting.group != group:
            group = setting.group
            lines.append((f"\n# {group}" if lines else f"# {group}", ""))
        lines.append((_line(setting, configuration), configuration.origin(setting.name)))
    width = min(max(len(text) for text, origin in lines if origin), 48)
    return "".join(
        f"{text}\n" if not origin else f"{text:<{width}}  # {_one_line(origin)}\n"
        for text, origin in lines
    )


def _line(setting: Setting, configuration: Configuration) -> str:
    texts = configuration.texts(setting.name)
    instead = configuration.overridden_by(setting.name)
    if instead is not None:
        return f"# {setting.name}: overridden by {instead}"
    if not texts and setting.kind != "list":
        return f"# {setting.name} is not set"
    if setting.secret and texts:
        return f"# {setting.name} is set (secret)"
    if setting.kind == "flag":
        return f"{setting.name} = {'true' if configuration[setting.name] else 'false'}"
    if setting.directory:
        texts = (configuration[setting.name],)
    if setting.kind == "list":
        printed = tuple(map(setting.printable, texts))
        # A redacted value is commented out: the file would not work with it.
        begin = "" if printed == texts else "# redacted: "
        return f"{begin}{setting.name} = [{', '.join(map(_quoted, printed))}]"
    return f"{setting.name} = {_quoted(texts[0])}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _quoted(text: str) -> str:
    """Return a number unchanged, any other text as a TOML basic string."""
    if re.fullmatch("0|[1-9][0-9]{0,17}", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else _escape(c) for c in escaped) + '"'


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
