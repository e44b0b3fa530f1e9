"""Command ``completion``: completion scripts for shells."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from durable_streams_tw.cli.registry import PROGRAM

#: Environment variable through which click receives completion requests.
VARIABLE = f"_{PROGRAM.upper().replace('-', '_')}_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  eval "$(durable-streams-server completion bash)"
    zsh:   eval "$(durable-streams-server completion zsh)"
    fish:  durable-streams-server completion fish | source

    Add the line to the startup file of the shell (~/.bashrc, ~/.zshrc,
    ~/.config/fish/config.fish).
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click supports these three shells"
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
