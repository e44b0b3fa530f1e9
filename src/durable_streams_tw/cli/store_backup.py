"""Commands ``backup``, ``restore`` and ``compact``: verified copies of a store."""

from __future__ import annotations

import json
from typing import Any

import click

from durable_streams_tw.cli.store_options import (
    with_data_dir,
    with_deep,
    with_even_flawed,
    with_json,
)
from durable_streams_tw.cli.store_tasks import StoreUnsound, finding_line, run_task, size
from durable_streams_tw.protocol.headers import format_timestamp


@click.command()
@click.argument("destination", type=click.Path())
@with_data_dir
@with_deep
@with_even_flawed
@with_json
def backup(directory: str, destination: str, **options: Any) -> None:
    """Back up a store into a new directory, also while its server runs.

    DESTINATION must not exist. The backup contains all writes that were acknowledged before it
    started. It has no free pages and is checked before it appears under its name. It includes the
    webhook keys: protect it like the data directory.

    Exit status: 0 success, 1 the store is damaged, 2 failure.
    """
    done = _run("backup", directory=directory, destination=destination, **options)
    if done is None:
        return
    click.echo(f"Backed up {_contents(done)} to {destination}, as of {_began_at(done)}.")
    if done["flaws"]:
        click.echo(f"The store is damaged ({done['flaws']:,} findings), and so is the backup.")


@click.command()
@click.argument("backup", type=click.Path(exists=True, file_okay=False))
@with_data_dir
@with_deep
@with_even_flawed
@with_json
def restore(directory: str, backup: str, **options: Any) -> None:
    """Restore a backup into an empty data directory.

    The data directory must be empty or must not exist: nothing is overwritten. The restored files
    are compared with the checksums of the backup and checked before a server can use them.

    Exit status: 0 success, 1 the backup is damaged, 2 failure.
    """
    done = _run("restore", directory=directory, backup=backup, **options)
    if done is not None:
        click.echo(f"Restored {_contents(done)} to {directory}, as of {_began_at(done)}.")


@click.command()
@with_data_dir
@with_even_flawed
@with_json
def compact(directory: str, **options: Any) -> None:
    """Release the disk space of deleted streams.

    Copies the store without its free pages, checks the copy and replaces the store with it. Stop
    the server first; the disk must have room for both. (A running server reuses free pages.)

    Exit status: 0 success, 1 the store is damaged, 2 failure.
    """
    done = _run("compact", directory=directory, **options)
    if done is not None:
        click.echo(f"Compacted {directory} from {size(done['before'])} to {size(done['after'])}.")


def _run(name: str, *, as_json: bool, **arguments: Any) -> Any:
    """Run a task and return its result; with ``as_json``, print it and return None."""
    try:
        done = run_task(name, **arguments)
    except StoreUnsound as flawed:
        for finding in flawed.findings:
            click.echo(finding_line(finding), err=True)
        sentence = f"{flawed.message}. Nothing was written. Use --even-flawed to continue anyway."
        raise StoreUnsound(sentence) from None
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return None
    return done


def _contents(manifest: dict[str, Any]) -> str:
    files = [f"{file['name']} ({size(file['size'])})" for file in manifest["files"]]
    return " and ".join(files)


def _began_at(manifest: dict[str, Any]) -> str:
    return format_timestamp(manifest["began_at"], "seconds")
