"""``GET /-/streams``: list of streams for operators, in pages."""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import parse_qs

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from durable_streams_tw.http import problems
from durable_streams_tw.http.limits import MAX_LISTING_PAGE
from durable_streams_tw.http.messages import Response
from durable_streams_tw.http.operators import resources
from durable_streams_tw.http.twisted_web.resource import send
from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import MAX_PATH
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.limits import LISTING_PAGE
from durable_streams_tw.storage.queries import ListStreams, Page

_JSON: Final = b"application/json"
_LIMIT: Final = re.compile("[0-9]{1,4}", re.ASCII)
_TEXTS: Final = ("prefix", "after")


class StreamListing(Resource):
    """List of streams, with the query parameters ``prefix``, ``after`` and ``limit``.

    ``after`` is the value of the same name in the previous page. ``root`` is the raw path of the
    streams, without its first slash.
    """

    isLeaf = True

    def __init__(self, store: IStreamStore, root: bytes) -> None:
        Resource.__init__(self)
        self._store = store
        self._root = "/" + root.decode("ascii")

    def render(self, request: Request) -> Any:
        """Send one page."""
        if request.method not in (b"GET", b"HEAD"):
            return send(resources.read_only(), request)
        if request.postpath:
            return resources.NotFoundResource().render(request)
        try:
            query = ListStreams(**_arguments(request.uri.partition(b"?")[2]))
        except Refused as refused:
            return send(resources.refusal(refused.refusal), request)
        page: Deferred[Any] = self._store.query(query)
        # Without this, the callbacks would write to a request whose client has left.
        request.notifyFinish().addErrback(lambda _: page.cancel())
        page.addCallback(self._response)
        page.addErrback(_failed)
        page.addCallback(_finish, request)
        return NOT_DONE_YET

    def _response(self, page: Page | Refusal) -> Response:
        if isinstance(page, Refusal):
            return resources.refusal(page)
        body: dict[str, Any] = {
            "root": self._root,
            "streams": [_described(state) for state in page.streams],
            "after": page.after,
        }
        if page.unreadable:
            body["unreadable"] = page.unreadable
        return resources.page(200, _JSON, json.dumps(body, ensure_ascii=False).encode("utf-8"))


def _arguments(query: bytes) -> dict[str, Any]:
    """Return the arguments of `ListStreams`. Raise `Refused` (MALFORMED_REQUEST).

    Parse the query as `authorized.missing_for_listing` does, so that both see the same prefix.
    """
    try:
        given = parse_qs(query.decode("latin-1"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise Refused(Problem.MALFORMED_REQUEST, "the query is not UTF-8") from None
    arguments: dict[str, Any] = {"limit": LISTING_PAGE}
    # Unknown parameters are ignored (PROTOCOL.md §11.1).
    for name in (*_TEXTS, "limit"):
        if name not in given:
            continue
        value, *more = given[name]
        if more:
            raise Refused(Problem.MALFORMED_REQUEST, f"the query parameter {name} is given twice")
        if name in _TEXTS:
            if len(value.encode("utf-8")) > MAX_PATH:
                raise Refused(
                    Problem.MALFORMED_REQUEST,
                    f"the query parameter {name} is longer than {MAX_PATH} bytes",
                )
            arguments[name] = value
        elif _LIMIT.fullmatch(value) is None or not 1 <= int(value) <= MAX_LISTING_PAGE:
            raise Refused(
                Problem.MALFORMED_REQUEST,
                f"the query parameter limit must be 1 to {MAX_LISTING_PAGE}",
            )
        else:
            arguments[name] = int(value)
    return arguments


def _described(state: StreamState) -> dict[str, Any]:
    described: dict[str, Any] = {
        "path": state.path,
        "content_type": state.content_type,
        "next_offset": format_offset(state, state.tail),
        "size": state.tail,
        "closed": state.closed,
        "created_at": headers.format_timestamp(state.created_at),
        "ttl_seconds": state.lifetime.ttl,
        "expires_at": None,
        "forked_from": None if state.fork is None else state.fork.source,
    }
    if state.lifetime.expires_at is not None:
        described["expires_at"] = state.lifetime.expires_at_text or headers.format_timestamp(
            state.lifetime.expires_at
        )
    return described


def _failed(failure: Failure) -> Response | None:
    if failure.check(CancelledError):
        return None
    return resources.refusal(problems.internal_error(failure))


def _finish(response: Response | None, request: Request) -> None:
    if response is not None:
        request.write(send(response, request))
        request.finish()
