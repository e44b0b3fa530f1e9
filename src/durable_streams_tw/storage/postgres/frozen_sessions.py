"""End of sessions whose node is frozen, so that the rows that they have locked are free.

PostgreSQL ends a session that is idle in a transaction (`MAX_IDLE_TRANSACTION`), but its timer does
not run while it waits for the rest of a pipeline. A node that is stopped while it sends one would
hold its locks for ever.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from twisted.logger import Logger

from durable_streams_tw.storage.limits import MAX_IDLE_TRANSACTION

_log: Final = Logger()

# COPY waits for its client between rows, and may do so for long.
_END: Final = f"""SELECT application_name, pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user
  AND application_name LIKE 'durable-streams %' AND pid <> pg_backend_pid()
  AND state IN ('active', 'idle in transaction') AND wait_event = 'ClientRead'
  AND query NOT LIKE 'COPY%'
  AND state_change < clock_timestamp() - interval '{MAX_IDLE_TRANSACTION} ms'"""


def end_frozen_sessions(connection: psycopg.Connection[Any]) -> None:
    """End the sessions of nodes that have stopped in the middle of a pipeline."""
    for name, ended in connection.execute(_END.encode()):
        if ended:
            _log.warn("Ended a session of a node that is frozen: {name}", name=name)
