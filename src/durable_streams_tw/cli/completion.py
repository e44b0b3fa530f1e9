"""``completion``: what a shell reads to complete these commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from durable_streams_tw.cli.registry import PROGRAM

#: click's name for the variable by which a shell asks.
VARIABLE = f"_{PROGRAM.upper().replace('-', '_')}_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion of these commands.

    \b
    bash:  eval "$(durable-streams-server completion bash)"
    zsh:   eval "$(durable-streams-server completion zsh)"
    fish:  durable-streams-server completion fish | source

    Put the line into the shell's start file (~/.bashrc, ~/.zshrc, ~/.config/fish/config.fish).
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click has these three"
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
