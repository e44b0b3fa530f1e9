"""Deletion of the records of ended streams and subscriptions, and of forgotten producers, in steps.

Any node may carry out any step: rows of `garbage` that another node has locked are left to it.
"""

from __future__ import annotations

from typing import Final

from durable_streams_tw.storage.engine.tables import owned_range
from durable_streams_tw.storage.limits import DELETE_STEP
from durable_streams_tw.storage.postgres.reader import Connection

_NEXT: Final = """SELECT id, generation FROM garbage ORDER BY id, generation LIMIT 1
FOR UPDATE SKIP LOCKED"""
_OLD_PRODUCERS: Final = """DELETE FROM producer WHERE stream_id = %s AND generation < %s
AND name = ANY(ARRAY(
  SELECT name FROM producer WHERE stream_id = %s AND generation < %s LIMIT %s))"""
_CHUNKS: Final = """DELETE FROM chunk WHERE stream_id = %s AND position = ANY(ARRAY(
  SELECT position FROM chunk WHERE stream_id = %s ORDER BY position LIMIT %s))"""
_PRODUCERS: Final = """DELETE FROM producer WHERE stream_id = %s AND name = ANY(ARRAY(
  SELECT name FROM producer WHERE stream_id = %s ORDER BY name LIMIT %s))"""
_RECORDS: Final = """DELETE FROM {0} WHERE key = ANY(ARRAY(
  SELECT key FROM {0} WHERE key >= %s AND key < %s ORDER BY key LIMIT %s))"""
_DONE: Final = "DELETE FROM garbage WHERE id = %s AND (generation = %s OR %s = 0)"


def collect_garbage(connection: Connection, most: int = DELETE_STEP) -> bool:
    """Delete about ``most`` records in one transaction; return whether there may be more.

    Raises `psycopg.Error`.
    """
    with connection.transaction():
        row = connection.execute(_NEXT).fetchone()
        if row is None:
            return False
        number, generation = row
        if _delete(connection, number, generation, most) < most:
            connection.execute(_DONE, (number, generation, generation))
    return True


def _delete(connection: Connection, number: int, generation: int, most: int) -> int:
    """Delete at most ``most`` records that an entry marks; return how many."""
    if generation:
        parameters = number, generation, number, generation, most
        return connection.execute(_OLD_PRODUCERS, parameters).rowcount
    left = most
    for query in (_CHUNKS, _PRODUCERS):
        left -= connection.execute(query, (number, number, left)).rowcount
    for table in ("link", "cursor"):
        query = _RECORDS.format(table)
        left -= connection.execute(query.encode(), (*owned_range(number), left)).rowcount
    return most - left
