"""Resources for operators below ``/-/``: tree, base class and error pages.

The HTTP/1.1 engine passes requests for other paths than streams to the twisted.web site, whose root
is `RootResource`. The raw path counts: ``/%2D/live`` is not below ``/-/``.

Responses have no CORS headers, as pages of other origins must not read them, and are not cached.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import parse_qs

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from durable_streams_tw.http import problems, request_target
from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.twisted_web.resource import send
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import MAX_PATH
from durable_streams_tw.protocol.streams import responses
from durable_streams_tw.protocol.streams.responses import Header

#: Raw path prefix of operator resources.
PREFIX: Final = b"/-/"

#: Headers of every response below ``/-/``.
COMMON: Final[tuple[Header, ...]] = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"Cache-Control", b"no-store"),
    (b"Referrer-Policy", b"no-referrer"),
)

_JSON: Final = b"application/json"
_NUMBER: Final = re.compile("[0-9]{1,9}", re.ASCII)

_NOT_FOUND: Final = Refusal(Problem.NOT_FOUND, "there is no operator resource at this path")
_READ_ONLY: Final = Refusal(
    Problem.METHOD_NOT_ALLOWED,
    "the methods of an operator resource are GET and HEAD",
    ((b"Allow", b"GET, HEAD"),),
)


def page(status: int, content_type: bytes, body: bytes, *fields: Header) -> Response:
    """Return a response below ``/-/``. ``fields`` replace common headers of the same name."""
    named = {name.lower() for name, _ in fields}
    common = [field for field in COMMON if field[0].lower() not in named]
    return Response(status, [(b"Content-Type", content_type), *fields, *common], body)


def refusal(refused: Refusal) -> Response:
    """Return a refusal below ``/-/``, as problem details (RFC 9457)."""
    answer = responses.refused(refused)
    own = {name.lower() for name, _ in answer.headers}
    common = [field for field in COMMON if field[0].lower() not in own]
    return Response(answer.status, [*answer.headers, *common], answer.body)


def read_only() -> Response:
    """Return the refusal of a method other than GET and HEAD."""
    return refusal(_READ_ONLY)


class OperatorResource(Resource):
    """Read-only resource without children."""

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)

    def render(self, request: Request) -> Any:
        """Call `show` for GET and HEAD; refuse other methods and longer paths."""
        if request.postpath:
            return NotFoundResource().render(request)
        if request.method not in (b"GET", b"HEAD"):
            return send(read_only(), request)
        return self.show(request)

    def show(self, request: Request) -> Any:
        """Respond to GET or HEAD, with a result as of `Resource.render`."""
        raise NotImplementedError


class NotFoundResource(OperatorResource):
    """Resource that responds with 404."""

    def render(self, request: Request) -> Any:
        """Send a 404 response."""
        return send(refusal(_NOT_FOUND), request)


class Parameters(Struct, frozen=True):
    """Query parameters of a request. Unknown ones are ignored (PROTOCOL.md §11.1).

    All methods raise `Refused` (MALFORMED_REQUEST).
    """

    values: dict[str, list[str]]

    def text(self, name: str, default: str = "", most: int = MAX_PATH) -> str:
        """Return a parameter that may be given once, of at most ``most`` bytes."""
        value, *more = self.values.get(name, [default])
        if more:
            raise _malformed(f"the query parameter {name} is given twice")
        if len(value.encode("utf-8")) > most:
            raise _malformed(f"the query parameter {name} is longer than {most} bytes")
        return value

    def choice(self, name: str, *choices: str) -> str:
        """Return a parameter that has one of some values; the first is the default."""
        value = self.text(name, choices[0])
        if value not in choices:
            known = ", ".join(choices)
            raise _malformed(f"the query parameter {name} must be one of: {known}")
        return value

    def number(self, name: str, default: int, most: int) -> int:
        """Return a number from 1 to ``most``."""
        value = self.text(name, str(default))
        if _NUMBER.fullmatch(value) is None or not 1 <= int(value) <= most:
            raise _malformed(f"the query parameter {name} must be 1 to {most}")
        return int(value)


def parameters(request: Request) -> Parameters:
    """Return the query parameters of a request. Raise `Refused` (MALFORMED_REQUEST)."""
    query = request.uri.partition(b"?")[2].decode("latin-1")
    try:
        return Parameters(parse_qs(query, keep_blank_values=True, errors="strict"))
    except ValueError:
        raise _malformed("the query is not UTF-8") from None


def _malformed(detail: str) -> Refused:
    return Refused(Problem.MALFORMED_REQUEST, detail)


class QueryResource(OperatorResource):
    """Resource that responds with JSON as soon as a Deferred fires."""

    def show(self, request: Request) -> Any:
        """Send the result of `respond`, or a refusal."""
        try:
            result: Deferred[Any] = self.respond(parameters(request))
        except Refused as refused:
            return send(refusal(refused.refusal), request)
        return respond_later(request, result.addCallback(_json_page))

    def respond(self, given: Parameters) -> Deferred[dict[str, Any] | Refusal]:
        """Return the JSON object of a response. Raise `Refused`, or fail the Deferred with it.

        The Deferred is cancelled if the client disconnects.
        """
        raise NotImplementedError


def _json_page(result: dict[str, Any] | Refusal) -> Response:
    if isinstance(result, Refusal):
        return refusal(result)
    return page(200, _JSON, json.dumps(result, ensure_ascii=False).encode("utf-8"))


def respond_later(request: Request, pending: Deferred[Any]) -> int:
    """Send a response when its Deferred fires; cancel it if the client disconnects."""
    # Without this, the callbacks would write to a request whose client has disconnected.
    request.notifyFinish().addErrback(lambda _: pending.cancel())
    pending.addErrback(_failed).addCallback(_finish, request)
    return NOT_DONE_YET


def _failed(failure: Failure) -> Response | None:
    if failure.check(CancelledError):
        return None
    if isinstance(failure.value, Refused):
        return refusal(failure.value.refusal)
    return refusal(problems.internal_error(failure))


def _finish(response: Response | None, request: Request) -> None:
    if response is not None:
        request.write(send(response, request))
        request.finish()


class OperatorTree(Resource):
    """Tree of operator resources at ``/-/``; children have names of one segment."""

    def __init__(self) -> None:
        Resource.__init__(self)

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Return a resource that responds with 404."""
        missing: IResource = NotFoundResource()
        return missing

    def render(self, request: Request) -> Any:
        """Send a 404 response: the tree itself has no page."""
        return send(refusal(_NOT_FOUND), request)


class RootResource(Resource):
    """Root of a site: ``operators`` below ``/-/``, ``index`` at ``/``, ``streams`` elsewhere.

    Without ``index``, ``/`` is one of the streams' paths too.
    """

    def __init__(self, operators: IResource, streams: IResource, index: IResource | None) -> None:
        Resource.__init__(self)
        self._operators = operators
        self._streams = streams
        self._index = index

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        """Choose by the raw target. The streams get the path with all segments."""
        target = request_target.origin_form(request.uri)
        if target.startswith(PREFIX):
            return self._operators
        if self._index is not None and target.partition(b"?")[0] == b"/":
            return self._index
        assert request.prepath is not None and request.postpath is not None
        request.postpath.insert(0, request.prepath.pop())
        return self._streams
