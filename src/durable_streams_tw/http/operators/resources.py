"""What is there for those who run the server: resources below ``/-/``, beside the streams.

Every door leads here: the fast one leaves what is no stream to its site, and the site shows
`RootResource` first. A path counts as it is written: ``/%2D/live`` is not below ``/-/``.

Pages of other sites have no business here, so nothing of this carries CORS fields, and nothing
is kept by caches.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.twisted_web import request_target
from durable_streams_tw.http.twisted_web.resource import send
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams import responses
from durable_streams_tw.protocol.streams.responses import Header

#: The raw path below which operators' resources are found.
PREFIX: Final = b"/-/"

#: What every answer here carries.
COMMON: Final[tuple[Header, ...]] = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"Cache-Control", b"no-store"),
    (b"Referrer-Policy", b"no-referrer"),
)

_NOTHING: Final = Refusal(Problem.NOT_FOUND, "operators find nothing here")
_READ_ONLY: Final = Refusal(
    Problem.METHOD_NOT_ALLOWED,
    "what operators look at knows GET and HEAD",
    ((b"Allow", b"GET, HEAD"),),
)


def page(status: int, content_type: bytes, body: bytes, *fields: Header) -> Response:
    """An answer below ``/-/``; ``fields`` take the place of common ones of the same name."""
    named = {name.lower() for name, _ in fields}
    common = [field for field in COMMON if field[0].lower() not in named]
    return Response(status, [(b"Content-Type", content_type), *fields, *common], body)


def refusal(refused: Refusal) -> Response:
    """What says no below ``/-/``, as problem details (RFC 9457)."""
    answer = responses.refused(refused)
    own = {name.lower() for name, _ in answer.fields}
    common = [field for field in COMMON if field[0].lower() not in own]
    return Response(answer.status, [*answer.fields, *common], answer.body)


def read_only() -> Response:
    """What answers a method that a resource for looking at does not know."""
    return refusal(_READ_ONLY)


class NotFoundResource(Resource):
    """There is nothing here."""

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)

    def render(self, request: Request) -> Any:
        """Say so, whatever was asked."""
        return send(refusal(_NOTHING), request)


class OperatorResource(Resource):
    """One thing to look at: nothing is behind its name, and nothing can be done to it."""

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)

    def render(self, request: Request) -> Any:
        """Show it, where that is what was asked for."""
        if request.postpath:
            return NotFoundResource().render(request)
        if request.method not in (b"GET", b"HEAD"):
            return send(read_only(), request)
        return self.show(request)

    def show(self, request: Request) -> Any:
        """Answer a GET or HEAD for it, as `Resource.render` does."""
        raise NotImplementedError


class OperatorTree(Resource):
    """The directory ``/-/``: put what operators look at under names of one segment.

    A child that is a leaf gets all that stands behind its name too.
    """

    def __init__(self) -> None:
        Resource.__init__(self)

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Nothing was put there."""
        missing: IResource = NotFoundResource()
        return missing

    def render(self, request: Request) -> Any:
        """The directory itself lists nothing."""
        return send(refusal(_NOTHING), request)


class RootResource(Resource):
    """The root of a site: ``operators`` below ``/-/``, ``streams`` for all else."""

    def __init__(self, operators: IResource, streams: IResource) -> None:
        Resource.__init__(self)
        self._operators = operators
        self._streams = streams

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        """Look at the target as it was sent; what goes to the streams is left whole."""
        if request_target.origin_form(request.uri).startswith(PREFIX):
            return self._operators
        assert request.prepath is not None and request.postpath is not None
        request.postpath.insert(0, request.prepath.pop())
        return self._streams
