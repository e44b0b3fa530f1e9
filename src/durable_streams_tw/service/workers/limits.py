"""Limits of worker processes. Sizes are bytes and times are seconds."""

from __future__ import annotations

from typing import Final

MIB: Final = 1024 * 1024

# Maximum size of one message between the supervisor and a worker: a log event with a traceback,
# or the metrics of all workers.
MAX_MESSAGE: Final = 16 * MIB

#: Longest path of the directory for temporary files that has room for the path of a UNIX socket,
#: which has at most 103 bytes.
MAX_SOCKET_DIRECTORY: Final = 70

#: Restarts of one worker without a pause, and the time within which they are counted.
QUICK_RESTARTS: Final = 10
RESTART_WINDOW: Final = 10.0

#: First and longest pause before the next restart of a worker; each pause doubles the last.
RESTART_PAUSE: Final = 1.0
MAX_RESTART_PAUSE: Final = 30.0

#: Time that a worker gets to stop before it is killed: a front closes its connections,
#: the owner finishes accepted commands and closes the store.
FRONT_STOP: Final = 10.0
OWNER_STOP: Final = 30.0

#: Period in which each worker tells the supervisor that it runs, and number of periods without a
#: message after which a worker hangs and is killed. A worker that opens the store may take longer.
HEARTBEAT_PERIOD: Final = 1.0
MAX_SILENCE: Final = 30

# Period in which each worker reports its metrics.
METRICS_PERIOD: Final = 1.0

#: Period in which fronts report their use of shared limits.
USAGE_PERIOD: Final = 0.1

#: Time in which the port of a supervisor that was killed must become free: its workers end when
#: they notice that it is gone.
PORT_PATIENCE: Final = 2.0
