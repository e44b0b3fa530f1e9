"""Authorization of operator resources, by the checks of `AuthorizedHandler`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import maybeDeferred
from twisted.web.resource import IResource, Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Request

from durable_streams_tw.auth.grants import Grants, Verb
from durable_streams_tw.auth.identities import Identity
from durable_streams_tw.http.handlers.authorization import (
    AuthorizedHandler,
    ClientRequest,
    forbidden,
)
from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.operators import resources
from durable_streams_tw.http.twisted_web.resource import host_of
from durable_streams_tw.protocol.errors import Refused

MissingGrant = Callable[[Grants, Request], "str | None"]
"""Return which grant a request lacks, None if it has all."""


def missing_for_metrics(grants: Grants, request: Request) -> str | None:
    """Require metrics on all streams: figures are about all of them."""
    if grants.allow_below(Verb.METRICS, ""):
        return None
    return "the request needs the grant metrics on all streams"


def missing_for_listing(grants: Grants, request: Request) -> str | None:
    """Require list on every stream whose name begins with the query parameter ``prefix``."""
    # StreamListing refuses several prefixes; until then each must be allowed.
    if all(grants.allow_below(Verb.LIST, prefix) for prefix in _values(request, "prefix")):
        return None
    return "the request needs the grant list on every stream whose name begins with the prefix"


def missing_for_streams(grants: Grants, request: Request) -> str | None:
    """Require read on each stream that a query parameter ``stream`` names."""
    if all(grants.allow(Verb.READ, name) for name in _values(request, "stream")):
        return None
    return "the request needs the grant read on the stream"


def missing_for_subscriptions(grants: Grants, request: Request) -> str | None:
    """Require subscribe on all streams: subscriptions name streams and URLs."""
    if grants.allow_below(Verb.SUBSCRIBE, ""):
        return None
    return "the request needs the grant subscribe on all streams"


def _values(request: Request, name: str) -> list[str]:
    """Return the values of a query parameter, an empty one if there are none or the query is bad.

    The resources parse the query by the same function.
    """
    try:
        return resources.parameters(request).values.get(name, [""])
    except Refused:
        return [""]


def missing_for_console(grants: Grants, request: Request) -> str | None:
    """Require no grant: the page holds no data."""
    return None


#: Required grants of the children of the operators' tree; all others require metrics. None is for
#: probes, which are not checked at all: they have no token and reveal nothing.
_RULES: Final[dict[bytes, MissingGrant | None]] = {
    b"live": None,
    b"ready": None,
    b"console": missing_for_console,
    b"streams": missing_for_listing,
    b"bytes": missing_for_streams,
    b"changes": missing_for_streams,
    b"subscriptions": missing_for_subscriptions,
}


class AuthorizedOperators(Resource):
    """Operator resources that are rendered once `AuthorizedHandler` has accepted the request."""

    isLeaf = True

    def __init__(self, operators: IResource, handler: AuthorizedHandler) -> None:
        Resource.__init__(self)
        self._resource = operators
        self._handler = handler

    def render(self, request: Request) -> Any:
        """Send a refusal, or let the operator resource render."""
        name = request.postpath[0] if request.postpath else b""
        rule = _RULES.get(name, missing_for_metrics)
        if rule is None:
            self._show(request)
            return NOT_DONE_YET
        return resources.respond_later(request, maybeDeferred(self._authorize, request, rule))

    def _authorize(self, request: Request, rule: MissingGrant) -> Any:
        """Return a refusal, or None if the operator resource has rendered, now or later."""

        def authenticated(identity: Identity | None) -> Response | None:
            missing = None if identity is None else rule(identity.grants, request)
            if missing is not None:
                return resources.refusal(forbidden(missing))
            self._show(request)
            return None

        return self._handler.authenticate(
            self._client_request(request),
            authenticated,
            resources.refusal,
            public=rule is missing_for_console,
        )

    def _show(self, request: Request) -> None:
        request.render(getChildForRequest(self._resource, request))

    def _client_request(self, request: Request) -> ClientRequest:
        headers = {
            name.lower(): b", ".join(values)
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        host = getattr(request.getClientAddress(), "host", None)
        url = b"http://" + host_of(request) + b"/"
        return self._handler.client_request(host, request.method or b"", headers, url)
