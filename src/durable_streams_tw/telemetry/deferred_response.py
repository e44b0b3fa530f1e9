"""Asynchronous responses of operator resources."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from durable_streams_tw.http import problems
from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.operators import resources
from durable_streams_tw.http.twisted_web.resource import refuse


def respond_later(request: Request, pending: Deferred[Response]) -> int:
    """Send a response when its Deferred fires, unless the client has disconnected."""
    gone: list[Failure] = []
    request.notifyFinish().addErrback(gone.append)

    def answer(response: Response) -> None:
        if not gone:
            refuse(response, request)

    pending.addErrback(lambda failure: resources.refusal(problems.internal_error(failure)))
    pending.addCallback(answer)
    return NOT_DONE_YET
