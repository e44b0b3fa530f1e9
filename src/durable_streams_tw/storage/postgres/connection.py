"""Connections to PostgreSQL: settings of a session, and the guarantees of a server."""

from __future__ import annotations

import logging
import zlib
from typing import Any, Final

import psycopg
import psycopg.sql
from msgspec import Struct

from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.limits import MAX_IDLE_TRANSACTION

# The store reports broken connections itself. Without a handler, psycopg would write to stderr.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

#: Timeout of a connection attempt to a host that does not answer, in seconds.
CONNECT_TIMEOUT: Final = 2
_TCP_OPTIONS: Final = {
    "connect_timeout": CONNECT_TIMEOUT,
    "tcp_user_timeout": 10_000,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

# The plans of all statements are index look-ups. With statistics of small or changing tables the
# planner would now and then prefer to read a whole table.
_SESSION: Final = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": str(MAX_IDLE_TRANSACTION),
    # A timeout during COMMIT would report success before the standby has the commit.
    "statement_timeout": "0",
}


_UNPREPARED_ERRORS: Final = (
    psycopg.errors.DuplicatePreparedStatement,
    psycopg.errors.InvalidSqlStatementName,
)
_UNPREPARED: Final = (
    "the pooler does not keep prepared statements: let it pool sessions, or use PgBouncer 1.21 or "
    "later with max_prepared_statements"
)


class DatabaseSettings(Struct, frozen=True):
    """Database of a store, and how a node uses it.

    ``url`` is a URL or connection string of libpq; it may name several hosts. ``schema`` holds the
    tables. ``listen_url`` leads to the server itself if ``url`` leads to a pooler; notifications
    arrive there. ``timeout`` is the time in seconds for which commands wait for a database that is
    away. ``node`` names this node in tables and messages; a random part is added to it.
    ``unsafe`` accepts a server that does not flush to disk.
    """

    url: str
    schema: str = "durable_streams"
    listen_url: str | None = None
    timeout: float = 10.0
    node: str = "node"
    unsafe: bool = False


class Durability(Struct, frozen=True):
    """Settings of a server that decide which failures an acknowledged write survives.

    ``version`` is PostgreSQL's number, such as 150004. ``checksums`` tells whether data pages have
    checksums.
    """

    version: int
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    standbys: str
    checksums: bool

    def describe(self) -> str:
        """Return a sentence that says what an acknowledged write survives."""
        if not (self.fsync and self.full_page_writes):
            return "Acknowledged writes do not survive a crash of the database's machine"
        if self.standbys and self.synchronous_commit in ("on", "remote_apply"):
            return (
                "Acknowledged writes survive the loss of the primary "
                f"(synchronous standbys: {self.standbys})"
            )
        return (
            "Acknowledged writes survive crashes of PostgreSQL and of its machine; after a "
            "failover to an asynchronous standby the last ones may be lost"
        )


def advisory_class(schema: str) -> int:
    """Return the first key of the advisory locks of a schema: a signed integer of 32 bits."""
    return zlib.crc32(b"durable-streams:" + schema.encode("utf-8")) - 2**31


def reason_of(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())


def connect(settings: DatabaseSettings, url: str | None = None) -> psycopg.Connection[Any]:
    """Open a connection to the primary, with the session settings of the store.

    Blocks for `CONNECT_TIMEOUT` per host at most. Raises `psycopg.Error`.
    """
    options: dict[str, Any] = {
        **_TCP_OPTIONS,
        "target_session_attrs": "read-write",
        "application_name": f"durable-streams {settings.node}",
        **psycopg.conninfo.conninfo_to_dict(url or settings.url),
    }
    connection = psycopg.connect(**options, autocommit=True)
    try:
        connection.prepare_threshold = 0
        path = psycopg.sql.SQL("{}").format(psycopg.sql.Identifier(settings.schema))
        names = [*_SESSION, "search_path"]
        values = [*_SESSION.values(), path.as_string(connection)]
        if connection.info.server_version >= 170000:
            names.append("transaction_timeout")
            values.append("0")
        connection.execute(
            "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) "
            "AS s(name, value)",
            (names, values),
        )
        # `on` also waits for synchronous standbys; weaker values of the role are raised.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
        )
    except BaseException as error:
        connection.close()
        if isinstance(error, _UNPREPARED_ERRORS):
            raise psycopg.OperationalError(_UNPREPARED) from error
        raise
    return connection


def check_durability(connection: psycopg.Connection[Any], settings: DatabaseSettings) -> Durability:
    """Read the guarantees of a server. Raises `StoreUnusable` and `psycopg.Error`."""
    row = connection.execute(
        "SELECT current_setting('fsync'), current_setting('full_page_writes'), "
        "current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), "
        "current_setting('data_checksums'), pg_is_in_recovery()"
    ).fetchone()
    assert row is not None, "the query returns one row"
    fsync, pages, commit, standbys, checksums, in_recovery = row
    version = connection.info.server_version
    found = Durability(version, fsync == "on", pages == "on", commit, standbys, checksums == "on")
    if version < 140000:
        raise StoreUnusable(f"PostgreSQL {version // 10000} is too old: 14 or later is required")
    if in_recovery:
        raise StoreUnusable("the database is a standby: the URL must lead to the primary")
    if not found.fsync and not settings.unsafe:
        raise StoreUnusable(
            "the database runs with fsync=off and loses acknowledged writes in a crash: turn it "
            "on, or accept that with --unsafe-database"
        )
    return found
