"""Handler of requests for streams (PROTOCOL.md §5), independent of the HTTP engine.

It routes each request to `ReadHandler`, `WriteHandler` or `SubscriptionHandler`. The rules are in
`protocol`, the bytes in the store, waiting in `live`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from durable_streams_tw.concurrency import continue_with
from durable_streams_tw.http import problems
from durable_streams_tw.http.handlers.deferred_result import PendingResult, as_deferred
from durable_streams_tw.http.handlers.reads import ReadHandler
from durable_streams_tw.http.handlers.subscriptions import SubscriptionHandler
from durable_streams_tw.http.handlers.writes import WriteHandler
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.http.response_headers import ALLOW, ResponseHeaders
from durable_streams_tw.protocol import headers, paths
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.streams import responses
from durable_streams_tw.protocol.streams.commands import Append
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.parsing import parse_append
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.control_paths import is_control
from durable_streams_tw.storage.api import IStreamStore, Outcome

_WRONG_ROOT = Refusal(
    Problem.NOT_FOUND,
    "subscriptions are at __ds/subscriptions/ below the root of all streams (see --root), "
    "not below another path",
)
_METHOD_NOT_ALLOWED = Refusal(
    Problem.METHOD_NOT_ALLOWED,
    "the methods of a stream are GET, HEAD, POST, PUT, DELETE and OPTIONS",
    (ALLOW,),
)

MaybePending = Response | Deferred[Response] | PendingResult[Response]
Respond = Callable[[Request], MaybePending]
"""Respond to one complete request."""

Decision = Response | Respond
"""Result of checking a request's head: a refusal, or the function for the complete request."""


class RequestHandler(Protocol):
    """Interface between HTTP engines and handlers: `StreamHandler` and its wrappers."""

    def responder(self, host: str | None) -> Respond:
        """Return the function that answers the requests of a connection from an address."""

    def decide(self, host: str | None, request: Request) -> Decision | Deferred[Decision]:
        """Check a request by its head, before its body is read.

        A refused request's body is neither requested (100-continue) nor read. The returned
        function does not repeat the checks. Fail only when cancelled.
        """

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """Return the response to a refused request with this Origin header."""

    def error_response(self, failure: Failure, origin: bytes | None) -> Response:
        """Return the response to a request whose handling failed. Raise `CancelledError`."""


class StreamHandler:
    """Handler of the stream methods, and of control resources by ``control``."""

    def __init__(
        self,
        store: IStreamStore,
        writes: WriteHandler,
        reads: ReadHandler,
        response_headers: ResponseHeaders,
        control: SubscriptionHandler,
    ) -> None:
        self._store = store
        self._writes = writes
        self._response_headers = response_headers
        self._control = control
        self._methods: dict[bytes, Callable[[Request, str], MaybePending]] = {
            b"GET": reads.read,
            b"POST": self._append,
            b"PUT": self._create,
            b"HEAD": self._describe,
            b"DELETE": self._delete,
        }

    def respond(self, request: Request) -> MaybePending:
        """Respond to a request.

        A pending response may fail; pass the failure to `error_response`. Cancel it when the
        client disconnects: a waiting read ends, a write continues.
        """
        try:
            memo = request.memo
            if memo is not None and memo.append is not None:
                return self._execute_append(memo.append, request)
            return self._route(request)
        except Exception:  # noqa: BLE001 - refusals are raised too, and every error gets a response
            return self.error_response(Failure(), request.headers.get(headers.ORIGIN))

    def respond_deferred(self, request: Request) -> Response | Deferred[Response]:
        """Answer a request like `respond`, with a Deferred for every pending response."""
        return as_deferred(self.respond(request))

    def responder(self, host: str | None) -> Respond:
        """Return `respond`: addresses do not matter here."""
        return self.respond

    def decide(self, host: str | None, request: Request) -> Decision:
        """Check the method and the path of a request."""
        try:
            refused = self._check_head(request)
        except Exception:  # noqa: BLE001 - refusals are raised too
            return self.error_response(Failure(), request.headers.get(headers.ORIGIN))
        return refused or self.respond

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """Return the response to a refused request with this Origin header."""
        return self._response_headers.refusal(refusal, origin)

    def error_response(self, failure: Failure, origin: bytes | None) -> Response:
        """Return the response to a failed request; log the failure unless it is `Refused`.

        Raise `CancelledError` if that is the failure.
        """
        error = failure.value
        if isinstance(error, Refused):
            return self.refuse(error.refusal, origin)
        if isinstance(error, CancelledError):
            raise error
        return self.refuse(problems.internal_error(failure), origin)

    def _route(self, request: Request) -> MaybePending:
        method = self._methods.get(request.method)
        if method is None:
            origin = request.headers.get(headers.ORIGIN)
            if request.method == b"OPTIONS":
                return self._response_headers.options(origin)
            return self.refuse(_METHOD_NOT_ALLOWED, origin)
        path = request.path
        if path[:1] in paths.FIRST_OF_RESERVED and is_control(path):
            return self._control.respond(request)
        return method(request, paths.parse_stream_path(path))

    def _check_head(self, request: Request) -> Response | None:
        if request.method not in self._methods:
            if request.method == b"OPTIONS":
                return None
            return self.refuse(_METHOD_NOT_ALLOWED, request.headers.get(headers.ORIGIN))
        if is_control(request.path):
            return self._control.check_head(request)
        paths.parse_stream_path(request.path)
        return None

    # -- methods ----------------------------------------------------------------------------

    def _append(self, request: Request, path: str) -> MaybePending:
        command = parse_append(path, request.headers)
        if request.memo is not None:
            request.memo.append = command
        return self._execute_append(command, request)

    def _execute_append(self, command: Append, request: Request) -> MaybePending:
        pending = PendingResult(self._written, request)
        self._writes.execute(command, request.body, pending)
        return pending.result_or_self()

    def _create(self, request: Request, path: str) -> MaybePending:
        if paths.resembles_subscription(path):
            # A client with a wrong root would create a stream in place of a subscription.
            return self.refuse(_WRONG_ROOT, request.headers.get(headers.ORIGIN))
        outcome = self._writes.create(path, request.headers, request.body, request.root)
        return continue_with(outcome, self._written, request)

    def _delete(self, request: Request, path: str) -> MaybePending:
        return continue_with(self._writes.delete(path, request.headers), self._written, request)

    def _written(self, outcome: Outcome, request: Request) -> Response:
        if isinstance(outcome, Appended):
            answer = responses.appended(outcome)
        elif isinstance(outcome, Refusal):
            answer = responses.refused(outcome)
        elif isinstance(outcome, Created):
            answer = responses.created(outcome, request.url)
        else:
            answer = responses.deleted()
        return self._response_headers.complete(answer, request.headers.get(headers.ORIGIN))

    def _describe(self, request: Request, path: str) -> MaybePending:
        return continue_with(self._store.get_state(path), self._described, request)

    def _described(self, found: StreamState | Refusal, request: Request) -> Response:
        given = request.headers
        if isinstance(found, Refusal):
            answer = responses.refused(found)
        else:
            answer = responses.described(
                found, given.get(headers.IF_MATCH), given.get(headers.IF_NONE_MATCH)
            )
        return self._response_headers.complete(answer, given.get(headers.ORIGIN))
