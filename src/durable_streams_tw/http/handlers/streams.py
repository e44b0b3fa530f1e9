"""The stream operations, behind every door alike: a request in, a response out.

What is decided here is which part answers what; the rules are `protocol`'s, the bytes are the
store's, and waiting is `live`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from durable_streams_tw.http import problems
from durable_streams_tw.http.handlers.deferred_result import Awaited, at_leisure, promptly
from durable_streams_tw.http.handlers.reads import ReadHandler
from durable_streams_tw.http.handlers.subscriptions import SubscriptionHandler
from durable_streams_tw.http.handlers.writes import WriteHandler
from durable_streams_tw.http.headers import ALLOW, ResponseHeaders
from durable_streams_tw.http.messages import Request, Response
from durable_streams_tw.protocol import headers, paths
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.streams import responses
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.protocol.subscriptions.control_paths import is_control
from durable_streams_tw.storage.api import IStreamStore, Outcome

_NO_STREAM = Refusal(Problem.NOT_FOUND, "names below __ds are reserved, and nothing is here")
_ELSEWHERE = Refusal(
    Problem.NOT_FOUND,
    "subscriptions are found at __ds/subscriptions/ below the root of all streams (see --root), "
    "not below another path",
)
_NO_METHOD = Refusal(
    Problem.METHOD_NOT_ALLOWED, "a stream knows GET, HEAD, POST, PUT, DELETE and OPTIONS", (ALLOW,)
)

Answering = Response | Deferred[Response] | Awaited[Response]
Respond = Callable[[Request], Answering]

Decision = Response | Respond
"""What comes of a request's head: a refusal, or what answers the complete request."""


class RequestHandler(Protocol):
    """What answers requests: `StreamHandler`, or what stands before them."""

    def serving(self, host: str | None) -> Respond:
        """What answers the requests of a connection from an address."""

    def decide(self, host: str | None, request: Request) -> Decision | Deferred[Decision]:
        """Decide on a request from an address by its head, before its body has come.

        A body that would be refused anyway is then neither asked for nor read. What answers the
        complete request decides nothing again that is decided here. Fails only when cancelled.
        """

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """What says no to a request, with the Origin that it named."""

    def failure(self, failure: Failure, origin: bytes | None) -> Response:
        """What answers a request whose answer has failed."""


class StreamHandler:
    """What a client can do with a stream (PROTOCOL.md §5)."""

    def __init__(
        self,
        store: IStreamStore,
        writing: WriteHandler,
        reads: ReadHandler,
        policies: ResponseHeaders,
        control: SubscriptionHandler | None = None,
    ) -> None:
        self._store = store
        self._writing = writing
        self._reads = reads
        self._policies = policies
        self._control = control
        self._methods: dict[bytes, Callable[[Request, str], Answering]] = {
            b"GET": self._read,
            b"POST": self._append,
            b"PUT": self._create,
            b"HEAD": self._describe,
            b"DELETE": self._delete,
        }

    def respond(self, request: Request) -> Response | Deferred[Response]:
        """Answer a request for a stream, or for a control resource where these are served.

        What is answered later may fail, for `failure` to answer. Cancelling it says that the
        client is gone: a reader that waits is let go, a write goes on.
        """
        return at_leisure(self.answer(request))

    def answer(self, request: Request) -> Answering:
        """The same, for a door that makes nothing more of it."""
        try:
            return self._begin(request)
        except Exception:  # noqa: BLE001 - refusals come this way too, and all have an answer
            return self.failure(Failure(), request.headers.get(headers.ORIGIN))

    def serving(self, host: str | None) -> Respond:
        """What answers the requests of a connection from an address: the same for all."""
        return self.answer

    def decide(self, host: str | None, request: Request) -> Decision:
        """Decide on a request by its head: by its method and its path."""
        try:
            refused = self._misdirected(request)
        except Exception:  # noqa: BLE001 - refusals come this way too
            return self.failure(Failure(), request.headers.get(headers.ORIGIN))
        return refused or self.answer

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """What says no to a request, with the Origin that it named."""
        return self._policies.refusal(refusal, origin)

    def failure(self, failure: Failure, origin: bytes | None) -> Response:
        """What answers a request that has failed: what it was refused for, or where the log has
        the bug that it met.

        Raises `CancelledError` where nobody waits for an answer.
        """
        error = failure.value
        if isinstance(error, Refused):
            return self.refuse(error.refusal, origin)
        if isinstance(error, CancelledError):
            raise error
        return self.refuse(problems.logged(failure), origin)

    def _begin(self, request: Request) -> Answering:
        method = self._methods.get(request.method)
        if method is None:
            origin = request.headers.get(headers.ORIGIN)
            if request.method == b"OPTIONS":
                return self._policies.options(origin)
            return self.refuse(_NO_METHOD, origin)
        if self._control is not None and is_control(request.path):
            return self._control.respond(request)
        name = paths.stream_name(request.path)
        if paths.is_reserved(name):
            return self.refuse(_NO_STREAM, request.headers.get(headers.ORIGIN))
        return method(request, name)

    def _misdirected(self, request: Request) -> Response | None:
        origin = request.headers.get(headers.ORIGIN)
        if request.method not in self._methods:
            return None if request.method == b"OPTIONS" else self.refuse(_NO_METHOD, origin)
        if self._control is not None and is_control(request.path):
            return self._control.misdirected(request)
        if paths.is_reserved(paths.stream_name(request.path)):
            return self.refuse(_NO_STREAM, origin)
        return None

    # -- methods ----------------------------------------------------------------------------

    def _read(self, request: Request, path: str) -> Response | Deferred[Response]:
        return self._reads.read(request, path)

    def _append(self, request: Request, path: str) -> Response | Awaited[Response]:
        awaited = Awaited(self._written, request)
        self._writing.append_for(path, request.headers, request.body, awaited.came, awaited.failed)
        return awaited.now()

    def _create(self, request: Request, path: str) -> Response | Deferred[Response]:
        if paths.resembles_subscription(path):
            # Else a client of another root would make a stream, and take it for a subscription.
            return self.refuse(_ELSEWHERE, request.headers.get(headers.ORIGIN))
        outcome = self._writing.create(path, request.headers, request.body, request.root)
        return promptly(outcome, self._written, request)

    def _delete(self, request: Request, path: str) -> Response | Deferred[Response]:
        return promptly(self._writing.delete(path, request.headers), self._written, request)

    def _written(self, outcome: Outcome, request: Request) -> Response:
        if isinstance(outcome, Appended):
            answer = responses.appended(outcome)
        elif isinstance(outcome, Refusal):
            answer = responses.refused(outcome)
        elif isinstance(outcome, Created):
            answer = responses.created(outcome, request.url)
        else:
            answer = responses.deleted()
        return self._policies.complete(answer, request.headers.get(headers.ORIGIN))

    def _describe(self, request: Request, path: str) -> Response | Deferred[Response]:
        return promptly(self._store.get_state(path), self._described, request)

    def _described(self, found: StreamState | Refusal, request: Request) -> Response:
        answer = (
            responses.refused(found) if isinstance(found, Refusal) else responses.described(found)
        )
        return self._policies.complete(answer, request.headers.get(headers.ORIGIN))
