"""Checks of the ``doctor`` command for a PostgreSQL database.

`judge` is a pure function of the values that `measure` reads, so that tests can produce every
result.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any, Final, Literal

import psycopg
from msgspec import Struct

from durable_streams_tw.service.configuration import Configuration, ConfigurationError
from durable_streams_tw.service.database import database_settings
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.limits import MAX_IDLE_TRANSACTION
from durable_streams_tw.storage.postgres.connection import (
    DatabaseSettings,
    Durability,
    check_durability,
    connect,
    reason_of,
)
from durable_streams_tw.storage.postgres.session import ROW_TIMEOUT

#: Name, grade and sentence of a result.
Check = tuple[str, Literal["good", "warning", "bad"], str]

#: Difference of the clocks beyond which TTLs are noticeably shorter or longer (seconds).
_CLOCK: Final = 1.0
#: Most connections that a node opens: two that commit, five that read, one that listens.
_CONNECTIONS: Final = 8
#: Age of a snapshot from which the updates of hot rows slow down (seconds).
_LONG_SNAPSHOT: Final = 600
#: Attempts to find a pooler that mixes sessions, which may by chance pass both to the same one.
_MIX_ATTEMPTS: Final = 5
#: Dead rows of a table that vacuum should have removed.
_MANY_DEAD: Final = 50_000


class DatabaseStats(Struct, frozen=True, kw_only=True):
    """Measured values of a database.

    ``clock_offset`` is the time by which the database's clock is ahead (seconds). ``pooled`` tells
    whether the connection leads through a pooler, ``mixed`` whether that one passes statements of a
    client to sessions with settings of other clients; ``unset`` are settings that the role lacks
    then. ``synchronous`` counts connected synchronous
    standbys, None if this role may not see them. ``free`` connections are left of ``connections``.
    ``snapshot_age`` is the age of the oldest transaction that holds a snapshot (seconds), and
    ``holder`` names it. ``dead`` and ``live`` count rows of the table of streams.
    """

    durability: Durability
    clock_offset: float
    pooled: bool
    mixed: bool
    unset: tuple[str, ...]
    synchronous: int | None
    connections: int
    free: int
    autovacuum: bool
    snapshot_age: float
    holder: str
    dead: int
    live: int


_SERVER: Final = b"""SELECT
  extract(epoch FROM clock_timestamp())::float8,
  pg_backend_pid(),
  current_setting('max_connections')::int,
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int,
  current_setting('autovacuum') = 'on',
  (SELECT CASE WHEN bool_or(sync_state IS NULL) THEN NULL
     ELSE count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) END FROM pg_stat_replication)"""

_SNAPSHOTS: Final = b"""SELECT age, holder FROM (
  SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8,
    'connection ' || pid || ' of ' || coalesce(nullif(application_name, ''), usename, '')
  FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND backend_type = 'client backend'
  UNION ALL
  SELECT extract(epoch FROM clock_timestamp() - prepared)::float8, 'prepared transaction ' || gid
  FROM pg_prepared_xacts) AS held (age, holder) WHERE age IS NOT NULL ORDER BY age DESC LIMIT 1"""

_ROLE_SETTINGS: Final = b"SELECT name, reset_val FROM pg_settings WHERE name = ANY(%s)"
_MARK: Final = "durable_streams.doctor"

_ROWS: Final = b"""SELECT n_dead_tup, n_live_tup FROM pg_stat_user_tables
WHERE schemaname = %s AND relname = 'stream'"""


def run_database_checks(configuration: Configuration) -> Iterator[Check]:
    """Yield the results of all checks of the database of a configuration."""
    try:
        settings = database_settings(configuration)
    except ConfigurationError as error:
        yield "database", "bad", str(error)
        return
    assert settings is not None, "the configuration names a database"
    try:
        with connect(settings) as connection, connect(settings) as other:
            facts = measure(connection, other, settings)
    except StoreUnusable as error:
        yield "database", "bad", str(error)
    except psycopg.Error as error:
        yield "database", "bad", reason_of(error)
    else:
        yield from judge(facts, settings, configuration["workers"])


def measure(
    connection: psycopg.Connection[Any],
    other: psycopg.Connection[Any],
    settings: DatabaseSettings,
) -> DatabaseStats:
    """Read the values through two connections. Raises `StoreUnusable` and `psycopg.Error`."""
    durability = check_durability(connection, settings)
    before = time.time()
    (row,) = connection.execute(_SERVER).fetchall()
    # The answer was made about in the middle of the round trip.
    now = (before + time.time()) / 2
    there, process, connections, free, autovacuum, synchronous = row
    age, holder = connection.execute(_SNAPSHOTS).fetchone() or (0.0, "")
    expected = {
        "search_path": settings.schema,
        "idle_in_transaction_session_timeout": str(MAX_IDLE_TRANSACTION),
        "lock_timeout": str(ROW_TIMEOUT),
        "statement_timeout": "0",
    }
    of_role = dict(connection.execute(_ROLE_SETTINGS, (list(expected),)).fetchall())
    dead, live = connection.execute(_ROWS, (settings.schema,)).fetchone() or (0, 0)
    return DatabaseStats(
        durability=durability,
        clock_offset=there - now,
        # A pooler reports a process number of its own at the start of a connection.
        pooled=connection.info.backend_pid != process,
        mixed=_mixes_sessions(connection, other),
        unset=tuple(name for name, value in expected.items() if of_role[name].strip('"') != value),
        synchronous=synchronous,
        connections=connections,
        free=free,
        autovacuum=autovacuum,
        snapshot_age=age,
        holder=holder,
        dead=dead,
        live=live,
    )


def _mixes_sessions(one: psycopg.Connection[Any], other: psycopg.Connection[Any]) -> bool:
    """Return True if one connection loses a setting of its session, or another one gets it."""
    value = secrets.token_hex(8)
    for _ in range(_MIX_ATTEMPTS):
        one.execute("SELECT set_config(%s, %s, false)", (_MARK, value))
        (leaked,), (kept,) = (
            each.execute("SELECT current_setting(%s, true) = %s", (_MARK, value)).fetchall()[0]
            for each in (other, one)
        )
        if leaked or not kept:
            return True
    return False


def judge(facts: DatabaseStats, settings: DatabaseSettings, nodes: int = 1) -> Iterator[Check]:
    """Yield the results for measured values and a server of that many nodes."""
    durability = facts.durability
    major, minor = divmod(durability.version, 10_000)
    yield "database", "good", f"PostgreSQL {major}.{minor}, schema {settings.schema}"
    safe = durability.fsync and durability.full_page_writes
    yield "durability", "good" if safe else "bad", durability.describe()
    yield from _standbys(facts)
    offset = facts.clock_offset
    if abs(offset) > _CLOCK:
        sentence = (
            f"the database's clock is {abs(offset):.1f} s {'ahead' if offset > 0 else 'late'}"
        )
        yield "clock", "warning", f"{sentence}: TTLs and leases differ by as much between nodes"
    else:
        yield "clock", "good", f"differs by {abs(offset) * 1000:.0f} ms"
    if durability.checksums:
        yield "checksums", "good", "on"
    else:
        sentence = "off: damaged pages are not noticed; turn them on with pg_checksums --enable"
        yield "checksums", "warning", sentence
    yield from _pooler(facts, settings)
    needed = nodes * _CONNECTIONS
    figures = f"{facts.free} of {facts.connections} free, this server needs {needed}"
    if facts.free < needed:
        yield "connections", "bad", f"{figures}: raise max_connections"
    else:
        yield "connections", "good", figures
    if not facts.autovacuum:
        yield "autovacuum", "bad", "off: the tables grow without bound"
    elif facts.dead > _MANY_DEAD and facts.dead > facts.live:
        sentence = f"{facts.dead:,} dead rows beside {facts.live:,} streams"
        yield "autovacuum", "warning", f"{sentence}: look for long snapshots, or vacuum more often"
    else:
        yield "autovacuum", "good", "on"
    if facts.snapshot_age > _LONG_SNAPSHOT:
        sentence = f"{facts.holder} holds a snapshot for {facts.snapshot_age / 60:.0f} min"
        yield "long snapshots", "warning", f"{sentence}: writes to many streams become slower"
    else:
        yield "long snapshots", "good", "none"


def _pooler(facts: DatabaseStats, settings: DatabaseSettings) -> Iterator[Check]:
    if not facts.pooled:
        yield "pooler", "good", "none: the URL leads to the server itself"
    elif not facts.mixed:
        yield "pooler", "good", "in session mode"
    elif settings.listen_url is None:
        sentence = "a pooler in transaction mode delivers no notifications: set database-listen"
        yield "pooler", "warning", sentence
    else:
        yield "pooler", "good", "notifications arrive through database-listen"
    if not facts.mixed:
        return
    if facts.unset:
        names = ", ".join(facts.unset)
        sentence = f"the pooler does not keep them: set {names} with ALTER ROLE"
        yield "session settings", "bad", sentence
    else:
        yield "session settings", "good", "those of the role"


def _standbys(facts: DatabaseStats) -> Iterator[Check]:
    wanted = facts.durability.standbys
    if not wanted:
        sentence = "none: a failover may lose the last acknowledged writes"
        yield "synchronous standbys", "good", sentence
    elif facts.synchronous is None:
        sentence = f"{wanted}; GRANT pg_monitor to see whether they are connected"
        yield "synchronous standbys", "warning", sentence
    elif not facts.synchronous:
        yield "synchronous standbys", "bad", f"none of {wanted} is connected: commits wait"
    else:
        yield "synchronous standbys", "good", f"{facts.synchronous} connected of {wanted}"
