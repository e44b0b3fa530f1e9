"""Top-level command group, which imports each command on use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from durable_streams_tw.cli.registry import COMMANDS, PROGRAM, Entry


class LazyGroup(click.Group):
    """Command group that imports the module of a command when the command is used."""

    def __init__(self, *arguments: Any, entries: Mapping[str, Entry], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the registry."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, without importing them."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self._entries.items():
            sections.setdefault(entry.section, []).append((name, entry.help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands, without importing them, and options of the group."""
        names = [name for name in self._entries if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self._entries[name].help) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    PROGRAM,
    cls=LazyGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(None, "-V", "--version", package_name="durable-streams-tw")
def commands() -> None:
    """Server and client for Durable Streams: append-only logs, each at a URL.

    Get started: durable-streams-server dev
    """


def main() -> None:
    """Run the console script."""
    commands.main(prog_name=PROGRAM)
