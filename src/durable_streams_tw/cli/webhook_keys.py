"""Command ``webhook-keys``: a file of webhook keys that several servers share."""

from __future__ import annotations

import time
from pathlib import Path

import click

from durable_streams_tw.protocol.headers import format_timestamp
from durable_streams_tw.storage.errors import StoreUnusable


@click.command("webhook-keys")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def webhook_keys(file: Path) -> None:
    """Create a file of webhook keys, or add the next key to it.

    Servers with --webhook-keys read the file at their start and once a minute. The next key signs
    ten minutes after it was added: copy the file to all servers until then. A new file has mode
    0600; later keys change neither mode nor owner.
    """
    from durable_streams_tw.subscriptions.key_file import KeyFile
    from durable_streams_tw.subscriptions.keyring import Keyring

    keyring = Keyring(None, time.time, KeyFile(file, shared=True))
    try:
        keyring.open(rotate=True)
    except StoreUnusable as error:
        raise click.ClickException(str(error)) from None
    key = keyring.newest
    since = f" from {format_timestamp(1000 * key.signs_from)} on" if key.signs_from else ""
    click.echo(f"{file}: {key.kid} signs{since}")
