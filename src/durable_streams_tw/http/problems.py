"""Failures that only a bug of ours explains: the log has them, the client a mark."""

from __future__ import annotations

from secrets import token_hex
from typing import Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.protocol.errors import Problem, Refusal

_log: Final = Logger()


def logged(failure: Failure) -> Refusal:
    """Log a failure under a fresh mark, and say no more than the mark."""
    mark = token_hex(6)
    _log.failure("Internal failure {mark}", failure, mark=mark)
    return Refusal(Problem.INTERNAL, f"the server failed; its log says more under {mark}")
