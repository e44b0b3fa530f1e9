"""Keyring of all nodes, in the table `secret`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import psycopg
from twisted.internet.defer import Deferred

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.postgres.connection import (
    DatabaseSettings,
    advisory_class,
    connect,
)
from durable_streams_tw.storage.postgres.duties import Run
from durable_streams_tw.storage.postgres.locks import KEYRING

KEYRING_SECRET: Final = "keyring"
"""Name of the secret that is the keyring."""
_SELECT: Final = b"SELECT value FROM secret WHERE name = %s"
_SAVE: Final = b"""INSERT INTO secret (name, value) VALUES (%s, %s)
ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value"""


class KeyringTable:
    """Keyring in a database, as `api.KeyringStorage` describes it. ``run`` is the store's."""

    place = "the keyring in the database"

    def __init__(self, settings: DatabaseSettings, run: Run[Any]) -> None:
        self._settings = settings
        self._run = run

    def update(self, change: Callable[[bytes | None], bytes | None]) -> None:
        """Store what ``change`` returns for the stored bytes, unless it returns None."""
        key = advisory_class(self._settings.schema), KEYRING
        try:
            with connect(self._settings) as connection, connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", key)
                changed = change(read_secret(connection, KEYRING_SECRET))
                if changed is not None:
                    write_secret(connection, KEYRING_SECRET, changed)
        except psycopg.Error as error:
            raise StoreUnusable(f"could not read or write the keyring: {error}") from None

    def read(self) -> Deferred[bytes | Refusal | None]:
        """Return the stored bytes."""
        return self._run(partial(read_secret, name=KEYRING_SECRET))


def read_secret(connection: psycopg.Connection[Any], name: str) -> bytes | None:
    """Return a value of the table `secret`, or None. Raises `psycopg.Error`."""
    row = connection.execute(_SELECT, (name,), binary=True).fetchone()
    return None if row is None else bytes(row[0])


def write_secret(connection: psycopg.Connection[Any], name: str, value: bytes) -> None:
    """Write a value of the table `secret`. Raises `psycopg.Error`."""
    connection.execute(_SAVE, (name, value))
