"""Health probes: liveness (``/-/live``) and readiness (``/-/ready``).

Liveness only requires that the reactor runs, readiness that writes would succeed. A full disk
fails readiness only, because a restart would not help.
"""

from __future__ import annotations

import json
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.operators import resources
from durable_streams_tw.http.operators.server_stats import ServerStats
from durable_streams_tw.http.twisted_web.resource import send

#: Maximum time of the test write (seconds), less than the usual timeout of probes.
READY_TIMEOUT: Final = 2.0

#: Time that a good result is cached (seconds), so that many probes cause one write.
READY_FOR: Final = 1.0

#: Time that a bad result is cached (seconds); shorter, so that recovery is noticed soon.
NOT_READY_FOR: Final = 0.25

_JSON: Final = b"application/json"
_SLOW: Final = f"no write for {READY_TIMEOUT:g} s: the disk hangs or its thread is dead"


class Live(resources.OperatorResource):
    """Resource ``GET /-/live``: 200 while the reactor runs."""

    def show(self, request: Request) -> Any:
        """Respond with 200."""
        return send(_status(200, "live"), request)


class Readiness:
    """Readiness check, which runs in threads.

    Concurrent probes share one check, so a disk that hangs blocks one thread only.
    """

    _log = Logger()

    def __init__(self, observed: ServerStats) -> None:
        self._observed = observed
        self._clock = observed.reactor
        self._looking = False
        self._waiting: list[Deferred[str | None]] = []
        self._found: str | None = None
        self._found_at = -READY_FOR
        self._was_ready = True

    def obstacle(self) -> Deferred[str | None]:
        """Return why the server is not ready, None if it is, within `READY_TIMEOUT` seconds."""
        answer: Deferred[str | None] = Deferred(self._left)
        recent = READY_FOR if self._found is None else NOT_READY_FOR
        if not self._looking and self._clock.seconds() - self._found_at < recent:
            answer.callback(self._found)
            return answer
        self._waiting.append(answer)
        answer.addTimeout(READY_TIMEOUT, self._clock, lambda _, __: _SLOW)
        answer.addCallback(self._noted)
        if not self._looking:
            self._looking = True
            self._observed.store.check_writable().addErrback(_bug).addCallback(self._looked)
        return answer

    def _left(self, answer: Deferred[str | None]) -> None:
        self._waiting.remove(answer)

    def _looked(self, found: str | None) -> None:
        self._looking = False
        self._found, self._found_at = found, self._clock.seconds()
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer.callback(found)

    def _noted(self, found: str | None) -> str | None:
        ready = found is None
        if ready is not self._was_ready:
            self._was_ready = ready
            if ready:
                self._log.info("The server is ready again")
            else:
                self._log.warn("The server is not ready: {why}", why=found)
        return found


class Ready(resources.OperatorResource):
    """``GET /-/ready``: 200 if the store can be read and written, else 503 with the reason."""

    def __init__(self, observed: ServerStats) -> None:
        resources.OperatorResource.__init__(self)
        self._readiness = Readiness(observed)

    def show(self, request: Request) -> Any:
        """Respond when the check has finished."""
        return resources.respond_later(request, self._readiness.obstacle().addCallback(_ready))


def _ready(obstacle: str | None) -> Response:
    if obstacle is None:
        return _status(200, "ready")
    return _status(503, "not ready", obstacle)


def _status(status: int, word: str, why: str | None = None) -> Response:
    body = {"status": word} if why is None else {"status": word, "why": why}
    return resources.page(status, _JSON, json.dumps(body).encode("ascii") + b"\n")


def _bug(failure: Failure) -> str:
    Readiness._log.failure("Readiness check failed", failure)
    return "internal error, see the log of the server"
