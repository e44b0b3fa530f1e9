"""Registry of the commands.

``--help`` and shell completion list the commands from here; a command's module is imported when the
command is used. To add a command, write a module with a click command and add a row here.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

#: Name of the console script.
PROGRAM: Final = "durable-streams-server"


class Entry(Struct, frozen=True):
    """Module below ``cli`` that has a command under its name, and the command's help.

    ``help`` is the first line of the command's docstring without the full stop; a test compares
    them.
    """

    module: str
    help: str


#: Commands by section of ``--help``.
SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Server": {
        "dev": Entry("dev", "Run a development server: console, access log, streams in memory"),
        "run": Entry("run", "Run the server in the foreground"),
        "config": Entry("config", "Check, show or convert the settings of a server"),
    },
    "Data directory": {
        "check": Entry("store_check", "Check the integrity of a store, also while its server runs"),
        "backup": Entry(
            "store_backup", "Back up a store into a new directory, also while its server runs"
        ),
        "restore": Entry("store_backup", "Restore a backup into an empty data directory"),
        "move": Entry("store_move", "Copy a store from a data directory to PostgreSQL, or back"),
        "compact": Entry("store_backup", "Release the disk space of deleted streams"),
        "stats": Entry(
            "store_stats", "Show the size and contents of a store, also while its server runs"
        ),
        "doctor": Entry(
            "doctor", "Check this machine for problems with a server of these settings"
        ),
    },
    "Client": {
        "create": Entry("client_writes", "Create a stream unless it exists"),
        "append": Entry("client_writes", "Append TEXT or standard input to a stream"),
        "read": Entry("client_reads", "Print the contents of streams"),
        "tail": Entry(
            "client_reads", "Print the contents of streams and follow them until all are closed"
        ),
        "head": Entry(
            "client_reads", "Print metadata of a stream: content type, tail offset, closed, expiry"
        ),
        "close": Entry(
            "client_writes", "Close a stream: its readers reach the end, and appends are refused"
        ),
        "fork": Entry(
            "client_writes", "Create a stream that starts with the contents of another one"
        ),
        "delete": Entry("client_writes", "Delete a stream and its contents"),
        "ls": Entry("client_listing", "List streams"),
        "watch": Entry(
            "client_listing",
            "Print changes of streams as they happen: created, appended, closed, deleted",
        ),
        "sub": Entry("client_subscriptions", "List, show, create and delete subscriptions"),
        "bench": Entry(
            "client_benchmark", "Measure appends and live delivery with a small load on a server"
        ),
    },
    "Other": {
        "help": Entry("help", "Show the help of a command"),
        "version": Entry("help", "Show the versions of the server, Python, Twisted and LMDB"),
        "webhook-keys": Entry(
            "webhook_keys", "Create a file of webhook keys, or add the next key to it"
        ),
        "token": Entry("token", "Create a bearer token and its entry for a token file"),
        "completion": Entry("completion", "Print the completion script of a shell"),
    },
}

COMMANDS: Final = {name: entry for rows in SECTIONS.values() for name, entry in rows.items()}
