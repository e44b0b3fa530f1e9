"""Which commands there are, and where each of them is.

A command's module is imported when the command is used: ``--help`` and shell completion list all
of them from here. To add a command, write a module with a click command in it, and a row here.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Entry(Struct, frozen=True):
    """A command: under which heading it is listed, where it is, and what it does, in one line.

    ``place`` is ``module:name`` of a `click.Command`. ``help`` is the command's own first line,
    without its full stop; a test compares them.
    """

    section: str
    place: str
    help: str


#: What the console script is called.
PROGRAM: Final = "durable-streams-server"

_HERE: Final = "durable_streams_tw.cli"

RUN: Final = "Serve"
STORE: Final = "Look after a data directory"
CLIENT: Final = "Use any server of the protocol"
OTHER: Final = "Besides"

COMMANDS: Final[dict[str, Entry]] = {
    "dev": Entry(RUN, f"{_HERE}.dev:dev", "Serve streams from memory on this machine, to try out"),
    "run": Entry(RUN, f"{_HERE}.run:run", "Run the server in the foreground"),
    "config": Entry(RUN, f"{_HERE}.config:config", "Check or show the settings of a server"),
    "check": Entry(
        STORE,
        f"{_HERE}.store_check:check",
        "Prove that a store holds together, also beside its server",
    ),
    "backup": Entry(
        STORE,
        f"{_HERE}.store_backup:backup",
        "Back a store up into a new directory, also beside its server",
    ),
    "restore": Entry(STORE, f"{_HERE}.store_backup:restore", "Make a data directory of a backup"),
    "compact": Entry(
        STORE,
        f"{_HERE}.store_backup:compact",
        "Give the space of deleted streams back to the disk",
    ),
    "stats": Entry(
        STORE,
        f"{_HERE}.store_stats:stats",
        "Say how large a store is and what is in it, also beside its server",
    ),
    "doctor": Entry(
        STORE,
        f"{_HERE}.doctor:doctor",
        "Say what on this machine would trouble a server with these settings",
    ),
    "create": Entry(
        CLIENT, f"{_HERE}.client_writes:create", "Make a stream, or make sure that it is there"
    ),
    "append": Entry(
        CLIENT, f"{_HERE}.client_writes:append", "Add to a stream, from standard input or as given"
    ),
    "read": Entry(CLIENT, f"{_HERE}.client_reads:read", "Print what a stream has"),
    "tail": Entry(
        CLIENT,
        f"{_HERE}.client_reads:tail",
        "Print what a stream has, and what comes, until it is closed",
    ),
    "head": Entry(
        CLIENT,
        f"{_HERE}.client_reads:head",
        "Print what a stream is: its type, its end, whether it is closed, when it expires",
    ),
    "close": Entry(
        CLIENT,
        f"{_HERE}.client_writes:close",
        "End a stream: its readers are told, and nothing can be appended any more",
    ),
    "fork": Entry(
        CLIENT, f"{_HERE}.client_writes:fork", "Make a stream that begins as another one does"
    ),
    "delete": Entry(
        CLIENT, f"{_HERE}.client_writes:delete", "Remove a stream and all that is in it"
    ),
    "token": Entry(
        OTHER,
        f"{_HERE}.token:token",
        "Make a token for a client, and its entry in a file of tokens",
    ),
    "completion": Entry(
        OTHER, f"{_HERE}.completion:completion", "Print a shell's completion of these commands"
    ),
}
