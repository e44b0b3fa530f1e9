"""Answers below ``/-/`` that take a while."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from durable_streams_tw.server import failures, operators
from durable_streams_tw.server.messages import Response
from durable_streams_tw.server.tree import refuse


def answer_later(request: Request, told: Deferred[Response]) -> int:
    """Answer a request when the response is there, unless the client has gone by then."""
    gone: list[Failure] = []
    request.notifyFinish().addErrback(gone.append)

    def answer(response: Response) -> None:
        if not gone:
            refuse(response, request)

    told.addErrback(lambda failure: operators.refusal(failures.logged(failure)))
    told.addCallback(answer)
    return NOT_DONE_YET
