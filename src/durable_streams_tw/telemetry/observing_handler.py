"""Request handler that reports each request and its response, for tracing and the access log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from durable_streams_tw.http.handlers.deferred_result import as_deferred
from durable_streams_tw.http.handlers.streams import Decision, RequestHandler, Respond
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.protocol.errors import Refusal

Finish = Callable[[Response | None], object]
"""Record the response to one request, None if the client left before there was one."""

Begin = Callable[[Request, str | None], Finish]
"""Record the start of a request from an address; return the function for its response."""


@dataclass(eq=False)
class ObservingHandler:
    """Request handler that calls ``begin`` for each request and passes it to ``handler``.

    The response counts when its head is known, so that live reads are recorded when they start.
    ``refused`` is called with the response to a request whose head could not be read.
    """

    _handler: RequestHandler
    _begin: Begin
    _refused: Callable[[Response], object] | None = None

    def responder(self, host: str | None) -> Respond:
        """Return the function that handles requests of a connection from an address."""
        inner = self._handler.responder(host)
        return lambda request: self._observe(request, host, inner)

    def decide(self, host: str | None, request: Request) -> Decision | Deferred[Decision]:
        """Decide on a request by its head; record a request that is refused."""
        decision = self._handler.decide(host, request)
        if isinstance(decision, Deferred):
            return decision.addCallback(self._decided, request, host)
        return self._decided(decision, request, host)

    def _decided(self, decision: Decision, request: Request, host: str | None) -> Decision:
        if isinstance(decision, Response):
            self._begin(request, host)(decision)
            return decision
        return lambda whole: self._observe(whole, host, decision)

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """Return the response for a refusal, for a request with this Origin."""
        response = self._handler.refuse(refusal, origin)
        if self._refused is not None:
            self._refused(response)
        return response

    def error_response(self, failure: Failure, origin: bytes | None) -> Response:
        """Return the response for a request whose handler has failed."""
        return self._handler.error_response(failure, origin)

    def _observe(
        self, request: Request, host: str | None, respond: Respond
    ) -> Response | Deferred[Response]:
        finish = self._begin(request, host)
        answer = respond(request)
        if isinstance(answer, Response):
            finish(answer)
            return answer
        later: Any = as_deferred(answer)
        observed: Deferred[Response] = later.addBoth(self._answered, finish, request)
        return observed

    def _answered(self, answer: Response | Failure, finish: Finish, request: Request) -> Any:
        if isinstance(answer, Failure) and answer.check(CancelledError) is None:
            # The connection would build the same response, but then it would not be recorded.
            answer = self._handler.error_response(answer, request.headers.get(b"origin"))
        finish(answer if isinstance(answer, Response) else None)
        return answer
