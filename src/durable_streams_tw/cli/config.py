"""Commands ``config check``, ``config show`` and ``config convert``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from durable_streams_tw.cli.caddyfile import convert as caddyfile_settings
from durable_streams_tw.cli.settings_options import SettingsCommand
from durable_streams_tw.cli.toml_format import escaped, quoted
from durable_streams_tw.service.configuration import Configuration, ConfigurationError
from durable_streams_tw.service.settings_table import GROUPS, Setting


@click.group()
def config() -> None:
    """Check, show or convert the settings of a server.

    `check` and `show` accept the options of `run` and read the same environment and file.
    """


class CheckCommand(SettingsCommand):
    """Command that finds all errors of the settings, of endpoints and token files too."""

    def load(self, values: Mapping[str, Any], file: str | None) -> Configuration:
        """Return the settings. Raises `ConfigurationError` with the errors of their uses too."""
        # Imported here: importing Twisted is slow.
        from durable_streams_tw.service.auth_checkers import checkers
        from durable_streams_tw.service.database import database_settings
        from durable_streams_tw.service.listening import endpoints

        problems: list[str] = []
        try:
            configuration = super().load(values, file)
        except ConfigurationError as error:
            problems += error.problems
            if error.partial is None:
                raise
            configuration = error.partial
        uses: list[Callable[[Configuration], object]] = [endpoints, database_settings, _check_keys]
        if configuration["auth"]:
            uses.append(checkers)
        for use in uses:
            try:
                use(configuration)
            except ConfigurationError as error:
                problems += error.problems
        if problems:
            raise ConfigurationError(problems)
        return configuration


def _check_keys(configuration: Configuration) -> None:
    """Raise `ConfigurationError` if the file with the webhook keys cannot be used."""
    from durable_streams_tw.storage.errors import StoreUnusable
    from durable_streams_tw.subscriptions.key_file import KeyFile

    path: str | None = configuration["webhook-keys"]
    if path is None:
        return
    try:
        KeyFile(Path(path), shared=True, writable=False).update(lambda content: None)
    except StoreUnusable as error:
        raise configuration.error("webhook-keys", str(error)) from None


@config.command(cls=CheckCommand)
def check(configuration: Configuration) -> None:
    """Check whether `run` would accept these settings.

    Opens no port and writes no file. Exit status: 0 valid, 2 invalid.
    """
    click.echo("The settings are valid.")


@config.command(cls=SettingsCommand)
def show(configuration: Configuration) -> None:
    """Print the effective settings and the source of each.

    The output is a valid configuration file. Secrets are redacted.
    """
    click.echo(format_settings(configuration), nl=False)


@config.command()
@click.argument("caddyfile", type=click.Path(dir_okay=False, path_type=Path))
def convert(caddyfile: Path) -> None:
    """Print the configuration file that a Caddyfile corresponds to.

    Comments at the end name what has no counterpart.
    """
    try:
        converted = caddyfile_settings(caddyfile.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise click.FileError(
            str(caddyfile), getattr(error, "strerror", None) or str(error)
        ) from None
    for name, value in converted.settings.items():
        click.echo(f"{name} = {value}")
    for note in converted.notes:
        click.echo(f"# {escaped(note)}")


def format_settings(configuration: Configuration) -> str:
    """Return the settings as a configuration file with the origin of each as a comment."""
    groups = {
        group: [(_line(row, configuration), configuration.origin(row.name)) for row in settings]
        for group, settings in GROUPS.items()
    }
    width = min(max(len(line) for rows in groups.values() for line, _ in rows), 48)
    return "\n".join(
        f"# {group}\n" + "".join(f"{line:<{width}}  # {escaped(origin)}\n" for line, origin in rows)
        for group, rows in groups.items()
    )


def _line(setting: Setting, configuration: Configuration) -> str:
    """Return the line of a setting, as a comment if TOML cannot hold its value."""
    name = setting.name
    texts = configuration.texts(name)
    instead = configuration.overridden_by(name)
    if instead is not None:
        return f"# {name}: overridden by {instead}"
    if not texts and setting.kind != "list":
        return f"# {name} is not set"
    if setting.kind == "flag":
        return f"{name} = {'true' if configuration[name] else 'false'}"
    if setting.directory:
        texts = (configuration[name],)
    printed = tuple(map(setting.redact, texts))
    reason = "" if printed == texts else "# redacted: "
    if any("\ud800" <= character <= "\udfff" for character in "".join(texts)):
        reason = "# not UTF-8: "
    values = [_value(text) for text in printed]
    value = f"[{', '.join(values)}]" if setting.kind == "list" else values[0]
    return f"{reason}{name} = {value}"


def _value(text: str) -> str:
    """Return a number unchanged, any other text as a TOML string."""
    return text if re.fullmatch("0|[1-9][0-9]{0,17}", text) else quoted(text)
