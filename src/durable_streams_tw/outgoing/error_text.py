"""Text of errors of requests to other servers."""

from __future__ import annotations

from twisted.internet import error
from twisted.web.client import ResponseFailed
from twisted.web.http import PotentialDataLoss


def sentence(failure: BaseException | None) -> str:
    """Return the reason of a failed request as a sentence."""
    if isinstance(failure, error.ConnectionRefusedError):
        return "could not connect: connection refused"
    if isinstance(failure, error.DNSLookupError):
        return "could not connect: the host name has no address"
    if isinstance(failure, error.TimeoutError):
        return "could not connect: timed out"
    if isinstance(failure, PotentialDataLoss):
        return "the response has no length and may be incomplete"
    if isinstance(failure, error.ConnectionDone | error.ConnectionLost | ResponseFailed):
        return "the connection was lost"
    text = str(failure)
    return text or type(failure).__name__
