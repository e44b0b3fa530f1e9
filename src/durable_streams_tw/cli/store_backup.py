"""``backup``, ``restore`` and ``compact``: copies of a store, proven sound."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click

from durable_streams_tw.cli.store_options import (
    chosen,
    with_data_dir,
    with_deep,
    with_even_flawed,
    with_json,
)
from durable_streams_tw.cli.store_tasks import StoreUnsound, run_task, size

_ALL_THE_SAME = "--even-flawed goes on all the same"


@click.command()
@click.argument("destination", type=click.Path())
@with_data_dir
@with_deep
@with_even_flawed
@with_json
def backup(destination: str, data_dir: str | None, config: str | None, **options: Any) -> None:
    """Back a store up into a new directory, also beside its server.

    DESTINATION must not be there yet. What was acknowledged before the backup began is in it.
    The copy has no free pages, and is checked before it gets its name; the keys of webhooks are
    in it, so keep it as secret as the data directory.

    Exit status: 0 done, 1 the store is not sound, 2 it could not be done.
    """
    directory = chosen(data_dir, config)
    done = _done("backup", options, directory=directory, place=destination)
    if options["as_json"]:
        click.echo(json.dumps(done, indent=2))
        return
    click.echo(f"{destination} has {_contents(done)}, as of {_moment(done['began_at'])}.")
    if done["flaws"]:
        click.echo(f"The store was not sound ({done['flaws']:,} findings), and neither is this.")


@click.command()
@click.argument("backup", type=click.Path(exists=True, file_okay=False))
@with_data_dir
@with_deep
@with_even_flawed
@with_json
def restore(backup: str, data_dir: str | None, config: str | None, **options: Any) -> None:
    """Make a data directory of a backup.

    The data directory must be empty, or missing: nothing is overwritten. What is restored is
    compared with what was backed up, and checked, before it becomes a store.

    Exit status: 0 done, 1 the backup is not sound, 2 it could not be done.
    """
    directory = chosen(data_dir, config)
    done = _done("restore", options, directory=directory, place=backup)
    if options["as_json"]:
        click.echo(json.dumps(done, indent=2))
        return
    click.echo(f"{directory} has {_contents(done)}, as of {_moment(done['began_at'])}.")


@click.command()
@with_data_dir
@with_even_flawed
@with_json
def compact(data_dir: str | None, config: str | None, **options: Any) -> None:
    """Give the space of deleted streams back to the disk.

    Writes the store anew without free pages, checks it, and puts it in the old one's place. Stop
    the server first. There has to be room for both. (A server uses free pages again by itself.)

    Exit status: 0 done, 1 the store is not sound, 2 it could not be done.
    """
    directory = chosen(data_dir, config)
    done = _done("compact", options, directory=directory)
    if options["as_json"]:
        click.echo(json.dumps(done, indent=2))
        return
    click.echo(f"{directory} took {size(done['before'])}, and takes {size(done['after'])}.")


def _done(name: str, options: dict[str, Any], **where: str) -> Any:
    chosen_ones = {key: value for key, value in options.items() if key != "as_json"}
    try:
        return run_task({"name": name, **where, **chosen_ones})
    except StoreUnsound as flawed:
        for finding in flawed.findings:
            line = f"{finding['meaning']}: {finding['detail']} (key {finding['key']})"
            click.echo(line, err=True)
        sentence = f"{flawed.message}. Nothing was made; {_ALL_THE_SAME}."
        raise StoreUnsound(sentence) from None


def _contents(manifest: dict[str, Any]) -> str:
    files = [f"{file['name']} ({size(file['size'])})" for file in manifest["files"]]
    return " and ".join(files)


def _moment(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
