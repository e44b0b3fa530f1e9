"""``GET /-/streams``: list of streams for operators, in pages, or sorted."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nlargest
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from durable_streams_tw.http.limits import MAX_LISTING_PAGE, MAX_SORTED_SCAN, SORT_STEP
from durable_streams_tw.http.operators.resources import Parameters, QueryResource
from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.limits import MAX_PATH
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.streams.state import StreamState
from durable_streams_tw.storage.api import IStreamStore
from durable_streams_tw.storage.limits import LISTING_PAGE
from durable_streams_tw.storage.queries import ListStreams, Page

_SORT_KEYS: Final[dict[str, Callable[[StreamState], int]]] = {
    "size": lambda state: state.tail,
    "active": lambda state: state.touched_at,
}

# `Page.after` of a folder is a little longer than the folder's name.
_MAX_AFTER: Final = MAX_PATH + 4


class StreamListing(QueryResource):
    """List of streams, with the query parameters of docs/console.md.

    ``after`` is the value of the same name in the previous page. ``root`` is the raw path of the
    streams, without its first slash.
    """

    def __init__(self, store: IStreamStore, root: bytes, clock: IReactorTime) -> None:
        QueryResource.__init__(self)
        self._store = store
        self._root = "/" + root.decode("ascii")
        self._clock = clock

    def respond(self, given: Parameters) -> Deferred[dict[str, Any] | Refusal]:
        """Return one page."""
        question = ListStreams(
            given.text("prefix"),
            given.text("after", most=_MAX_AFTER),
            given.number("limit", LISTING_PAGE, MAX_LISTING_PAGE),
            contains=given.text("contains"),
            tree=given.choice("tree", "false", "true") == "true",
        )
        sort = given.choice("sort", "name", *_SORT_KEYS)
        if sort == "name":
            page: Deferred[Page | Refusal] = self._store.query(question)
            return page.addCallback(self._page)
        return ensureDeferred(self._sorted(question, _SORT_KEYS[sort]))

    async def _sorted(
        self, question: ListStreams, key: Callable[[StreamState], int]
    ) -> dict[str, Any] | Refusal:
        """Return the ``limit`` first streams by a sort key, the greatest first.

        Each step examines `SORT_STEP` names, so that neither the reactor nor a reader thread is
        occupied for long.
        """
        found: list[StreamState] = []
        complete = False
        step = replace(question, limit=SORT_STEP, scan=SORT_STEP, tree=False)
        for examined in range(0, MAX_SORTED_SCAN, SORT_STEP):
            if examined:
                await deferLater(self._clock, 0)
            page = await self._store.query(step)
            if isinstance(page, Refusal):
                return page
            found = nlargest(question.limit, [*found, *page.streams], key=key)
            if page.after is None:
                complete = True
                break
            step = replace(step, after=page.after)
        return {**self._described(Page(tuple(found))), "complete": complete}

    def _page(self, page: Page | Refusal) -> dict[str, Any] | Refusal:
        return page if isinstance(page, Refusal) else self._described(page)

    def _described(self, page: Page) -> dict[str, Any]:
        body: dict[str, Any] = {
            "root": self._root,
            "streams": [describe(state) for state in page.streams],
            "after": page.after,
        }
        if page.folders:
            body["folders"] = page.folders
        if page.unreadable:
            body["unreadable"] = page.unreadable
        return body


def describe(state: StreamState) -> dict[str, Any]:
    """Return the JSON object of a stream in responses to operators."""
    described: dict[str, Any] = {
        "path": state.path,
        "content_type": state.content_type,
        "next_offset": format_offset(state, state.tail),
        "size": state.tail,
        "closed": state.closed,
        "created_at": headers.format_timestamp(state.created_at),
        "active_at": headers.format_timestamp(state.touched_at),
        "ttl_seconds": state.lifetime.ttl,
        "expires_at": None,
        "forked_from": None if state.fork is None else state.fork.source,
    }
    if state.lifetime.expires_at is not None:
        described["expires_at"] = state.lifetime.expires_at_text or headers.format_timestamp(
            state.lifetime.expires_at
        )
    return described
