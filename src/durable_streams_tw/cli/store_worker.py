"""Child process of the store commands, which reads the data file.

Reading a damaged LMDB file can crash the process, so the command itself never does it. The task is
the first argument, as JSON of its name and its arguments. The output is lines of JSON, each an
object with one field: ``progress``, ``finding``, ``flawed``, ``unusable`` or ``done``.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from durable_streams_tw.storage.admin import backup, compact, copy, restore, stats, verify
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.data_dir import owner
from durable_streams_tw.storage.engine.kv import EngineFailed
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.subscriptions.keyring import KEYS_FILE

#: Further files of a store in the data directory.
BESIDE: Final = (KEYS_FILE,)

_PROGRESS_INTERVAL: Final = 0.1
_INTERRUPTED: Final = 130


def main(argument: str) -> None:
    """Run a task, given as JSON of its name and its arguments, and write its result."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    name, arguments = json.loads(argument)
    try:
        send("done", TASKS[name](**arguments))
    except verify.FlawedStore as flawed:
        findings = [finding.as_json() for finding in flawed.findings]
        send("flawed", {"sentence": str(flawed), "count": flawed.count, "findings": findings})
    except (StoreUnusable, EngineFailed) as error:
        send("unusable", str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        send("unusable", f"{where}{error.strerror}")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _interrupt(number: int, frame: object) -> None:
    # Ignore further signals, so that cleanup is not interrupted.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def send(kind: str, value: object) -> None:
    """Write one message as a line of JSON."""
    sys.stdout.buffer.write(msgspec.json.encode({kind: value}) + b"\n")
    sys.stdout.buffer.flush()


def _progress_sender() -> copy.Progress:
    last_at, last_what = 0.0, ""

    def progress(what: str, done: int, of: int) -> None:
        nonlocal last_at, last_what
        now = time.monotonic()
        if what != last_what or now - last_at > _PROGRESS_INTERVAL:
            last_at, last_what = now, what
            send("progress", [what, done, of])

    return progress


def _now() -> int:
    return time.time_ns() // 1_000_000


def _check(directory: str, deep: bool) -> object:
    count = 0
    with Inspection(directory) as store:
        entries = store.usage().entries
        for finding in verify.find_flaws(store, deep, _progress_sender()):
            count += 1
            send("finding", finding.as_json())
    return {"entries": entries, "flaws": count, "owner": owner(directory)}


def _stats(directory: str, quick: bool, top: int) -> object:
    counted = None
    with Inspection(directory) as store:
        figures = store.usage()
        if not quick:
            with verify.ProgressSource(store, _progress_sender(), "counting").snapshot() as view:
                counted = stats.count(view, top)
    return {"owner": owner(directory), "store": figures, "counted": counted}


def _move(source: str, destination: str, schema: str) -> object:
    try:
        # Imported here, because psycopg is optional.
        from durable_streams_tw.storage.admin.move import move_to_database, move_to_directory
        from durable_streams_tw.storage.postgres.connection import DatabaseSettings
    except ImportError:
        raise StoreUnusable(
            "psycopg is not installed. Install durable-streams-tw with its extra 'postgres'"
        ) from None
    progress = _progress_sender()
    if "://" in destination:
        settings = DatabaseSettings(destination, schema, node="move")
        return move_to_database(source, settings, KEYS_FILE, _now(), progress)
    settings = DatabaseSettings(source, schema, node="move")
    return move_to_directory(settings, destination, KEYS_FILE, _now(), progress)


#: Tasks by name.
TASKS: Final[dict[str, Callable[..., object]]] = {
    "check": _check,
    "backup": lambda directory, destination, **options: backup.back_up(
        directory, destination, BESIDE, _now, _progress_sender(), **options
    ),
    "restore": lambda directory, backup, **options: restore.restore(
        backup, directory, _now(), _progress_sender(), **options
    ),
    "compact": lambda directory, **options: compact.compact(
        directory, _progress_sender(), **options
    ),
    "stats": _stats,
    "move": _move,
}


if __name__ == "__main__":
    main(sys.argv[1])
