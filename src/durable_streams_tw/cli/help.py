"""Commands ``help`` and ``version``."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

import click

from durable_streams_tw import __version__


@click.command()
@click.argument("command", nargs=-1)
@click.pass_context
def help(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Show the help of a command."""
    found: click.Command = ctx.find_root().command
    inner = ctx.find_root()
    for name in command:
        following = found.get_command(inner, name) if isinstance(found, click.Group) else None
        if following is None:
            raise click.UsageError(f"No such command '{' '.join(command)}'.", ctx.find_root())
        found = following
        inner = click.Context(found, info_name=name, parent=inner)
    click.echo(found.get_help(inner))


@click.command()
def version() -> None:
    """Show the versions of the server, Python, Twisted and LMDB."""
    click.echo(f"durable-streams-tw {__version__}")
    click.echo(f"Python {platform.python_version()}")
    for name in ("twisted", "lmdb"):
        click.echo(f"{name} {version_of(name)}")
