"""Klein resource of the streams, for any twisted.web site.

It converts requests and responses between twisted.web and `messages`, around Klein:

1. Klein matches decoded paths, redirects ``//`` and raises for paths that are not UTF-8. So the
   raw path below the mount is taken from the request target, and passed to Klein as one segment
   in which every byte is quoted.
2. A request with a Host header that Klein cannot parse is refused before Klein.
3. Klein cancels the Deferred of a request when the client disconnects. The `RequestHandler`
   decides what that stops.
4. A streamed body is a push producer. A body that cannot be completed resets its connection.
"""

from __future__ import annotations

from collections.abc import Callable
from io import SEEK_END, BytesIO
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as WebRequest

from durable_streams_tw.http import problems, request_target
from durable_streams_tw.http.handlers.deferred_result import as_deferred
from durable_streams_tw.http.handlers.streams import Decision, RequestHandler, Respond
from durable_streams_tw.http.header_fields import CLOSING, SINGLE
from durable_streams_tw.http.limits import SEND_TIMEOUT
from durable_streams_tw.http.messages import NO_BODY, Request, Response, StreamedBody
from durable_streams_tw.http.refusals import BAD_HOST, duplicate_field, refused
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.http.twisted_web.streaming import RequestSink, abort_response
from durable_streams_tw.live.timer_queue import TimerQueue
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused

_SINGLE: Final = SINGLE - CLOSING

Refuse = Callable[[Refusal, bytes | None], Response]
"""Return the response to a refused request with an Origin header."""


class StreamResources:
    """twisted.web resources of the streams of one `RequestHandler`.

    ``refuse`` is used for requests that are not for a stream, which wrappers of the handler do not
    see.
    """

    app = Klein()

    def __init__(
        self,
        handler: RequestHandler,
        settings: Settings,
        clock: IReactorTime,
        refuse: Refuse,
    ) -> None:
        self._handler = handler
        self._refuse = refuse
        self._send_timeouts = TimerQueue(clock, SEND_TIMEOUT)
        self._settings = settings
        self._klein = self.app.resource()

    def resource(self, root: bytes = b"") -> IResource:
        """Return a resource that serves the streams below its mount point and ``root``.

        ``root`` is empty or a raw path that ends with a slash.
        """
        return _Mount(self._refuse, self._klein, root)

    def decide(self, root: bytes, request: WebRequest) -> Decision | Deferred[Decision] | None:
        """Authorize a request by its head, before its body is received.

        Returns None for a request that is not for a stream below ``root``, a raw path.
        """
        path, _, _ = request.uri.partition(b"?")
        if not path.startswith(root) or path.startswith(b"/-/"):
            return None
        try:
            host_of(request)
            _check_duplicates(request)
        except Refused as fault:
            return self._handler.refuse(fault.refusal, _origin(request))
        host = getattr(request.getClientAddress(), "host", None)
        return self._handler.decide(host, self._message(request, path[len(root) :]))

    @app.route("/")
    @app.route("/<target>")
    def stream(self, request: WebRequest, target: str = "") -> Deferred[bytes]:
        """Respond to a request for a stream. ``target`` is its raw path, quoted as a whole."""
        if _size(request) > self._settings.max_body:
            # On other sites only: a StreamSite has refused it before.
            too_large = problems.body_too_large(self._settings.max_body)
            return succeed(self._handler.refuse(too_large, _origin(request))).addCallback(
                send, request
            )
        message = self._message(request, unquote_to_bytes(target))
        # A StreamSite may have authorized the head before the body was complete.
        given: Any = request
        respond: Respond | None = getattr(request, "admitted", None)
        if respond is None:
            respond = self._handler.responder(getattr(request.getClientAddress(), "host", None))
        else:
            given.admitted = None
        responded: Deferred[Any] = maybeDeferred(respond, message)
        responded.addCallback(as_deferred)
        sent: Deferred[bytes] = responded.addCallback(self._send, request)
        return sent

    @app.handle_errors(Exception)  # type: ignore[arg-type]
    def failed(self, request: WebRequest, failure: Failure) -> bytes | Deferred[bytes]:
        """Respond to an internal error, or reset a response that has begun."""
        response = self._handler.error_response(failure, _origin(request))
        if request.startedWriting:
            abort_response(request)
            return b""
        return send(response, request)

    def _send(self, response: Response, request: WebRequest) -> bytes | Deferred[bytes]:
        body = response.body
        if isinstance(body, bytes):
            return send(response, request)
        begin_response(response, request)
        sink = RequestSink(request, self._send_timeouts)
        if not isinstance(body, StreamedBody):
            return sink.follow(body)
        if body.size is not None:
            request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % body.size])
        return sink.follow(body.follow)

    def _message(self, request: WebRequest, path: bytes) -> Request:
        header = {
            name.lower(): b", ".join(values)
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        uri = request_target.origin_form(request.uri)
        path_of_url, _, query = uri.partition(b"?")
        base = request_target.base_url(
            header, host_of(request), request.isSecure(), self._settings.trust_proxy
        )
        content: Any = request.content
        # On a StreamSite the body is in memory and its size limited.
        body = content.getvalue() if isinstance(content, BytesIO) else content.read()
        root = path_of_url[: len(path_of_url) - len(path)]
        return Request(request.method, root, path, query, header, body, base + path_of_url)


class _Mount(Resource):
    """Resource that passes requests to Klein, or refuses those that Klein cannot handle."""

    isLeaf = True

    def __init__(self, refuse: Refuse, klein: KleinResource, root: bytes) -> None:
        Resource.__init__(self)
        self._refuse = refuse
        self._klein = klein
        self._root = root

    def render(self, request: WebRequest) -> Any:
        """Let Klein render a request."""
        try:
            host_of(request)
            _check_duplicates(request)
            path = request_target.raw_path(request.uri, len(request.postpath or ()))
            if not path.startswith(self._root):
                whole = request_target.origin_form(request.uri).partition(b"?")[0]
                root = (whole.removesuffix(path) + self._root).decode("latin-1")
                raise Refused(Problem.NOT_FOUND, f"the streams are below {root}")
        except Refused as fault:
            refuse(self._refuse(fault.refusal, _origin(request)), request)
            return NOT_DONE_YET
        request.postpath = [quote(path[len(self._root) :], safe="").encode("ascii")]
        return self._klein.render(request)


def host_of(request: WebRequest) -> bytes:
    """Return the host and port that a request is for.

    A client of HTTP/1.0 need not send a Host header; the address that it connected to takes its
    place. Raises `Refused` (MALFORMED_REQUEST).
    """
    given = request.requestHeaders.getRawHeaders(b"host")
    if given is None:
        if request.clientproto == b"HTTP/1.0":
            return request_target.format_address(request.getHost())
        raise refused(BAD_HOST)
    host: bytes = given[0]
    if any(other != host for other in given[1:]) or (
        len(given) > 1 and request.clientproto != b"HTTP/2"
    ):
        raise refused(BAD_HOST)
    if not request_target.is_host(host):
        raise refused(BAD_HOST)
    return host


def _check_duplicates(request: WebRequest) -> None:
    for name, values in request.requestHeaders.getAllRawHeaders():
        if len(values) > 1 and name.lower() in _SINGLE:
            refusal = duplicate_field(name.lower())
            raise Refused(refusal.problem, refusal.detail)


def _origin(request: WebRequest) -> bytes | None:
    return request.getHeader(b"origin")


def _size(request: WebRequest) -> int:
    content: Any = request.content
    size: int = content.seek(0, SEEK_END)
    content.seek(0)
    return size


def send(response: Response, request: WebRequest) -> bytes:
    """Set the head of a response whose body is bytes, and return the body."""
    begin_response(response, request)
    body = response.body
    assert isinstance(body, bytes), "only responses of streams are streamed"
    if request.method != b"HEAD" and response.status not in NO_BODY:
        request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    return body


def begin_response(response: Response, request: WebRequest) -> None:
    """Set the status and the headers of a response."""
    request.setResponseCode(response.status)
    for name, value in response.headers:
        request.responseHeaders.addRawHeader(name, value)


def refuse(response: Response, request: WebRequest) -> None:
    """Send a response whose body is bytes."""
    request.write(send(response, request))
    request.finish()
