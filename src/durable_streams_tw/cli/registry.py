"""Registry of the commands.

``--help`` and shell completion list the commands from here; a command's module is imported when the
command is used. To add a command, write a module with a click command and add a row here.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Entry(Struct, frozen=True):
    """Command, with the section of ``--help`` that lists it.

    ``target`` is ``module:name`` of a `click.Command`. ``help`` is the first line of the command's
    docstring without the full stop; a test compares them.
    """

    section: str
    target: str
    help: str


#: Name of the console script.
PROGRAM: Final = "durable-streams-server"

_HERE: Final = "durable_streams_tw.cli"

RUN: Final = "Server"
STORE: Final = "Data directory"
CLIENT: Final = "Client"
OTHER: Final = "Other"

COMMANDS: Final[dict[str, Entry]] = {
    "dev": Entry(
        RUN, f"{_HERE}.dev:dev", "Run a development server on this machine, with streams in memory"
    ),
    "run": Entry(RUN, f"{_HERE}.run:run", "Run the server in the foreground"),
    "config": Entry(RUN, f"{_HERE}.config:config", "Check or show the settings of a server"),
    "check": Entry(
        STORE,
        f"{_HERE}.store_check:check",
        "Check the integrity of a store, also while its server runs",
    ),
    "backup": Entry(
        STORE,
        f"{_HERE}.store_backup:backup",
        "Back up a store into a new directory, also while its server runs",
    ),
    "restore": Entry(
        STORE, f"{_HERE}.store_backup:restore", "Restore a backup into an empty data directory"
    ),
    "compact": Entry(
        STORE,
        f"{_HERE}.store_backup:compact",
        "Release the disk space of deleted streams",
    ),
    "stats": Entry(
        STORE,
        f"{_HERE}.store_stats:stats",
        "Show the size and contents of a store, also while its server runs",
    ),
    "doctor": Entry(
        STORE,
        f"{_HERE}.doctor:doctor",
        "Check this machine for problems with a server of these settings",
    ),
    "create": Entry(CLIENT, f"{_HERE}.client_writes:create", "Create a stream unless it exists"),
    "append": Entry(
        CLIENT,
        f"{_HERE}.client_writes:append",
        "Append standard input or the given data to a stream",
    ),
    "read": Entry(CLIENT, f"{_HERE}.client_reads:read", "Print the contents of a stream"),
    "tail": Entry(
        CLIENT,
        f"{_HERE}.client_reads:tail",
        "Print the contents of a stream and follow it until it is closed",
    ),
    "head": Entry(
        CLIENT,
        f"{_HERE}.client_reads:head",
        "Print metadata of a stream: content type, tail offset, closed, expiry",
    ),
    "close": Entry(
        CLIENT,
        f"{_HERE}.client_writes:close",
        "Close a stream: its readers reach the end, and appends are refused",
    ),
    "fork": Entry(
        CLIENT,
        f"{_HERE}.client_writes:fork",
        "Create a stream that starts with the contents of another one",
    ),
    "delete": Entry(CLIENT, f"{_HERE}.client_writes:delete", "Delete a stream and its contents"),
    "token": Entry(
        OTHER,
        f"{_HERE}.token:token",
        "Create a bearer token and its entry for a token file",
    ),
    "completion": Entry(
        OTHER, f"{_HERE}.completion:completion", "Print the completion script of a shell"
    ),
}
