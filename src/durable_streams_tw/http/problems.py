"""Refusals that several handlers share, and responses to internal errors."""

from __future__ import annotations

from secrets import token_hex
from typing import Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.protocol.errors import Problem, Refusal

_log: Final = Logger()

RESERVED_PATH: Final = Refusal(
    Problem.NOT_FOUND, "paths below __ds are reserved, and this one is not a control resource"
)


def body_too_large(limit: int) -> Refusal:
    """Return the refusal of a request body larger than ``limit`` bytes."""
    return Refusal(Problem.BODY_TOO_LARGE, f"the request body is larger than {limit} bytes")


def internal_error(failure: Failure) -> Refusal:
    """Log a failure under a random id, and return a refusal that shows the client only the id."""
    mark = token_hex(6)
    _log.failure("Internal error {mark}", failure, mark=mark)
    return Refusal(Problem.INTERNAL, f"internal error {mark}: see the server's log")
