"""Creation and migration of the tables, by the node that starts first."""

from __future__ import annotations

from typing import Any, Final

import psycopg

from durable_streams_tw import __version__
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.postgres.connection import DatabaseSettings, advisory_class
from durable_streams_tw.storage.postgres.locks import MIGRATION
from durable_streams_tw.storage.postgres.schema import COMPATIBLE, FORMAT, MIGRATIONS, MOVE_MARK

_EXISTING: Final = """SELECT to_regclass('meta') IS NOT NULL, exists(
  SELECT FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s)))"""


def migrate(connection: psycopg.Connection[Any], settings: DatabaseSettings, now: int) -> None:
    """Create the tables or bring them to `FORMAT`, in one transaction.

    Nodes that start at the same time wait for each other. ``now`` is in ms since the Unix epoch.
    Raises `StoreUnusable` for tables of a newer version or of another program, and
    `psycopg.Error`.
    """
    schema = settings.schema
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '60s'")
        connection.execute(
            "SELECT pg_advisory_xact_lock(%s, %s)", (advisory_class(schema), MIGRATION)
        )
        known, occupied = _row(connection, _EXISTING, schema)
        if not known:
            if occupied:
                raise StoreUnusable(
                    f"the schema {schema!r} holds tables that do not belong to this server"
                )
            if not _row(connection, "SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL", schema)[
                0
            ]:
                connection.execute(
                    psycopg.sql.SQL("CREATE SCHEMA {}").format(psycopg.sql.Identifier(schema))
                )
            have = 0
        else:
            have, compatible, version = _row(
                connection, "SELECT format, compatible, version FROM meta"
            )
            if compatible > FORMAT:
                raise StoreUnusable(
                    f"the schema {schema!r} was written by version {version}, which this version "
                    f"({__version__}) cannot read"
                )
        if have >= FORMAT:
            return
        for statements in MIGRATIONS[have:]:
            connection.execute(statements.encode(), prepare=False)
        if not have:
            # Ids must exceed those of an earlier store in the same place, whose bytes caches hold.
            connection.execute("SELECT setval('ids', %s)", (now << 20,))
        connection.execute(
            "INSERT INTO meta (format, compatible, version, created_at) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (one) DO UPDATE SET format = EXCLUDED.format, "
            "compatible = EXCLUDED.compatible, version = EXCLUDED.version",
            (FORMAT, COMPATIBLE, __version__, now),
        )


def refuse_partial_store(connection: psycopg.Connection[Any], settings: DatabaseSettings) -> None:
    """Raise `StoreUnusable` if a store is being moved into the schema, and is not complete."""
    query = "SELECT count(*) FROM secret WHERE name = %s"
    if _row(connection, query, MOVE_MARK)[0]:
        raise StoreUnusable(
            f"the schema {settings.schema!r} has only a part of a store: run "
            "`durable-streams-server move` again to complete it"
        )


def _row(connection: psycopg.Connection[Any], query: str, *parameters: object) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query, parameters).fetchone()
    assert row is not None, "the query returns one row"
    return row
