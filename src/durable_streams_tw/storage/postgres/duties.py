"""Duties of subscriptions in the database: which node carries out the next action, until when.

The commit that changes a subscription writes its node as the holder, with `DEADLINE`. Deadlines are
in the time of the database, so that clocks of nodes that are apart give no duty to two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
import psycopg
from twisted.internet.defer import Deferred

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.subscriptions.state import Subscription
from durable_streams_tw.storage.engine.tables import subscription_key
from durable_streams_tw.storage.limits import DUTY_HELD

T = TypeVar("T")

_decode: Final = msgspec.msgpack.Decoder(Subscription).decode

#: Runs a function with a connection in a thread; fires with a refusal if the database is
#: unavailable.
Run = Callable[[Callable[[psycopg.Connection[Any]], T]], Deferred[T | Refusal]]

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

#: SQL expression of the column ``until`` for an action that is due in ``%s`` ms.
DEADLINE: Final = f"{_NOW} + greatest(%s, 0) + {round(DUTY_HELD * 1000)}"

#: Duties that one call takes at most, so that other nodes share the work of one that died.
_TAKEN: Final = 500

# Rows are locked in the order of their keys, as batches lock them. A row that a batch has locked is
# being changed, which gives it a holder: it need not be taken.
_TAKE: Final = f"""WITH late AS (
  SELECT key FROM subscription WHERE due IS NOT NULL AND until < {_NOW}
  ORDER BY due LIMIT {_TAKEN} FOR UPDATE SKIP LOCKED)
UPDATE subscription s SET node = %s, until = {DEADLINE} FROM late
WHERE s.key = late.key RETURNING s.record"""

_HOLD: Final = f"""WITH mine AS (
  SELECT key FROM subscription WHERE key = ANY(%s::bytea[]) AND node = %s ORDER BY key FOR UPDATE)
UPDATE subscription s SET until = greatest(s.until, {DEADLINE}) FROM mine
WHERE s.key = mine.key RETURNING s.record"""

_RELEASE: Final = """WITH mine AS (
  SELECT key FROM subscription WHERE due IS NOT NULL AND node = %s ORDER BY key FOR UPDATE)
UPDATE subscription s SET until = 0 FROM mine WHERE s.key = mine.key"""


class SubscriptionDuties:
    """Duties of one node, as `api.Duties` describes them. ``node`` is the node's unique name."""

    def __init__(self, run: Run[Any], node: str) -> None:
        self._run = run
        self._node = node

    def take(self) -> Deferred[list[Subscription] | Refusal]:
        """Hold the duties whose holder is late, at most `_TAKEN`; return their subscriptions."""
        return self._run(lambda connection: _rows(connection, _TAKE, self._node, 0))

    def hold(self, ids: Sequence[str]) -> Deferred[list[Subscription] | Refusal]:
        """Renew the duties of subscriptions, and return those that this node still holds."""
        keys = list(map(subscription_key, ids))
        return self._run(lambda connection: _rows(connection, _HOLD, keys, self._node, 0))

    def release(self) -> Deferred[None]:
        """Let other nodes take all duties of this node at once."""
        released: Deferred[Any] = self._run(
            lambda connection: connection.execute(_RELEASE, (self._node,)).close()
        )
        return released.addCallback(lambda _: None)


def _rows(
    connection: psycopg.Connection[Any], statement: str, *parameters: object
) -> list[Subscription]:
    cursor = connection.execute(statement.encode(), parameters, binary=True)
    return [_decode(record) for (record,) in cursor]
