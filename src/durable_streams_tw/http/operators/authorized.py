"""Resources of other kinds that ask as streams do: what operators look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Request

from durable_streams_tw.auth.grants import Grants, Verb
from durable_streams_tw.auth.identities import Identity
from durable_streams_tw.http import problems
from durable_streams_tw.http.handlers.authorization import AuthorizedHandler, forbidden
from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.operators import resources
from durable_streams_tw.http.twisted_web import request_target
from durable_streams_tw.http.twisted_web.resource import send
from durable_streams_tw.protocol.errors import Refusal, Refused

May = Callable[[Grants, Request], "str | None"]
"""What is missing for a request, in words; None where it is allowed."""

_LATER: Final = "the resource answers"


def may_see_metrics(grants: Grants, request: Request) -> str | None:
    """Numbers are about all streams."""
    if grants.allow_below(Verb.METRICS, ""):
        return None
    return "this needs metrics on all streams"


def may_list(grants: Grants, request: Request) -> str | None:
    """Names of streams that begin with the parameter ``prefix``."""
    query = request.uri.partition(b"?")[2].decode("latin-1")
    try:
        given = parse_qs(query, keep_blank_values=True, errors="strict").get("prefix", [""])
    except ValueError:
        given = [""]
    # Given twice it is refused behind this; until then each has to be allowed.
    if all(grants.allow_below(Verb.LIST, prefix) for prefix in given):
        return None
    return "this needs list on every stream whose name begins with the prefix"


def may_look(grants: Grants, request: Request) -> str | None:
    """A page that holds nothing itself."""
    return None


#: What is asked for children of the operators' tree; for all others the most. Probes know no
#: tokens, and are told nothing; None is nothing at all.
_RULES: Final[dict[bytes, May | None]] = {
    b"live": None,
    b"ready": None,
    b"console": may_look,
    b"streams": may_list,
}


class AuthorizedOperators(Resource):
    """What operators look at, behind all that is asked of requests."""

    isLeaf = True

    def __init__(self, operators: IResource, admission: AuthorizedHandler) -> None:
        Resource.__init__(self)
        self._resource = operators
        self._admission = admission

    def render(self, request: Request) -> Any:
        """Answer, or leave that to the resource."""
        gone: list[object] = []
        name = request.postpath[0] if request.postpath else b""
        may = _RULES.get(name, may_see_metrics)

        def judge(who: Identity | None) -> Any:
            missing = None if who is None or may is None else may(who.grants, request)
            return _LATER if missing is None else resources.refusal(forbidden(missing))

        def say(refusal: Refusal) -> Response:
            return resources.refusal(refusal)

        def broken(failure: Failure) -> Response | None:
            if failure.check(CancelledError):
                return None
            return resources.refusal(problems.logged(failure))

        def settled(answer: Any) -> None:
            if gone or answer is None:
                return
            if answer is _LATER:
                request.render(getChildForRequest(self._resource, request))
                return
            request.write(send(answer, request))
            request.finish()

        answer: Any = _LATER
        try:
            if may is not None:
                answer = self._admission.examine(
                    self._visit(request), judge, say, open_to_all=may is may_look
                )
        except Refused as refused:
            answer = say(refused.refusal)
        except Exception:  # noqa: BLE001 - whatever it is, nothing is shown
            answer = resources.refusal(problems.logged(Failure()))
        if isinstance(answer, Deferred):
            request.notifyFinish().addErrback(gone.append)
            answer.addErrback(broken).addCallback(settled).addErrback(problems.logged)
        else:
            settled(answer)
        return NOT_DONE_YET

    def _visit(self, request: Request) -> Any:
        header = {
            name.lower(): b", ".join(values)
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        host = getattr(request.getClientAddress(), "host", None)
        url = b"http://" + request_target.host_of(request) + b"/"
        return self._admission.visit(host, request.method or b"", header, url)
