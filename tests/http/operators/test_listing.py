"""Tests of `durable_streams_tw.http.operators.listing`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from durable_streams_tw.http.operators import listing
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.http.operators.operator_case import OperatorCase, parsed
from tests.http.server_fixture import Client
from tests.tokens import bare


def paths(page: dict[str, Any]) -> list[str]:
    """Return the paths of the streams on a page."""
    return [stream["path"] for stream in page["streams"]]


class Asked(MemoryStore):
    """Store whose queries the test may delay."""

    waiting: Deferred[Any] | None = None

    def query(self, question: Any) -> Deferred[Any]:
        """Run the query, or wait for the test."""
        return self.waiting or super().query(question)


class ListingTests(OperatorCase):
    """Requests for the list of streams."""

    store: Asked

    def make_store(self) -> Asked:
        return Asked(lambda: int(self.clock.seconds() * 1000))

    def page(self, query: str = "") -> dict[str, Any]:
        """Return one page."""
        answer = self.ask("GET", f"/-/streams?{query}")
        self.assertEqual(answer.header["content-type"], "application/json")
        return parsed(answer)

    def test_a_page(self) -> None:
        self.put("a/b", Stream_TTL="60")
        self.put("c", Stream_Forked_From="/v1/stream/a/b", Stream_Closed="true")
        page = self.page()
        self.assertEqual((page["root"], page["after"]), ("/v1/stream/", None))
        page["streams"][0]["next_offset"] = bare(page["streams"][0]["next_offset"])
        self.assertEqual(
            page["streams"][0],
            {
                "path": "a/b",
                "content_type": "text/plain",
                "next_offset": "0000000000000000_0000000000000000",
                "size": 0,
                "closed": False,
                "created_at": "2027-01-15T08:00:00.000Z",
                "active_at": "2027-01-15T08:00:00.000Z",
                "ttl_seconds": 60,
                "expires_at": None,
                "forked_from": None,
            },
        )
        self.assertEqual(page["streams"][1]["forked_from"], "a/b")
        self.assertTrue(page["streams"][1]["closed"])

    def test_pages(self) -> None:
        """Prefix, limit and continuation work for names with any characters."""
        names = ["a b/+", "a b/&=", "a b/%2f", "a b/é", "c"]
        for name in names:
            self.put(quote(name))
        found, after = [], ""
        while after is not None:
            page = self.page(f"prefix=a+b/&limit=2&else=x&after={quote(after)}")
            found += [stream["path"] for stream in page["streams"]]
            after = page["after"]
        self.assertEqual(found, sorted(names[:-1]))

    def test_expiry(self) -> None:
        """A deadline is shown as its client wrote it."""
        self.put("a", Stream_Expires_At="2030-01-01T00:00:00+01:00")
        self.assertEqual(self.page("pre%66ix=b")["streams"], [])
        self.assertEqual(self.page()["streams"][0]["expires_at"], "2030-01-01T00:00:00+01:00")

    def test_search(self) -> None:
        """A listing with ``contains`` has the names with that text, in upper or lower case."""
        for name in ("jobs/Nightly", "jobs/hourly", "nightly"):
            self.put(name)
        page = self.page("contains=NIGHT")
        self.assertEqual(paths(page), ["jobs/Nightly", "nightly"])
        self.assertEqual(paths(self.page("contains=night&prefix=jobs/")), ["jobs/Nightly"])

    def test_tree(self) -> None:
        """A listing with ``tree`` has the folders of a level in place of their streams."""
        for name in ("a", "b/1", "b/2", "b/c/3", "d"):
            self.put(name)
        page = self.page("tree=true")
        self.assertEqual((paths(page), page["folders"]), (["a", "d"], ["b/"]))
        page = self.page("tree=true&prefix=b/")
        self.assertEqual((paths(page), page["folders"]), (["b/1", "b/2"], ["b/c/"]))

    def sorted_page(self, query: str) -> dict[str, Any]:
        """Return a sorted listing, whose steps take turns of the reactor."""
        client = Client(self.site)
        client.request("GET", f"/-/streams?{query}")
        self.clock.pump([0] * 10)
        (answer,) = client.answers()
        client.leave()
        return parsed(answer)

    def test_sorted(self) -> None:
        """Sorted listings begin with the largest stream, or with the one appended to last."""
        for name, size in (("a", 1), ("b", 3), ("c", 2)):
            self.put(name)
            self.clock.advance(1)
            self.append(name, b"x" * size)
        self.patch(listing, "SORT_STEP", 1)
        page = self.sorted_page("sort=size&limit=2")
        self.assertEqual((paths(page), page["complete"]), (["b", "c"], True))
        self.assertEqual(paths(self.sorted_page("sort=active")), ["c", "b", "a"])
        self.patch(listing, "MAX_SORTED_SCAN", 2)
        page = self.sorted_page("sort=active")
        self.assertEqual((paths(page), page["complete"]), (["b", "a"], False))

    def test_refused(self) -> None:
        """Malformed queries and other methods are refused."""
        for query in (
            "limit=0",
            "limit=1001",
            "limit=x",
            "prefix=%FF",
            "after=" + "x" * 2053,
            "contains=" + "x" * 2049,
            "sort=path",
            "tree=yes",
            "prefix=a&pr%65fix=b",
        ):
            answer = self.ask("GET", f"/-/streams?{query}")
            self.assertEqual(answer.status, 400, query)
            self.assertEqual(answer.header["content-type"], "application/problem+json")
        self.assertEqual(self.ask("POST", "/-/streams").status, 405)
        self.assertEqual(self.ask("GET", "/-/streams/a").status, 404)
        head = self.ask("HEAD", "/-/streams")
        self.assertEqual((head.status, head.body), (200, b""))

    def test_closed_to_other_sites(self) -> None:
        """Responses have no CORS headers."""
        answer = self.ask("GET", "/-/streams", Origin="https://app.example")
        self.assertNotIn("access-control-allow-origin", answer.header)
        self.assertEqual(answer.header["cache-control"], "no-store")

    def test_the_store_refuses(self) -> None:
        """A refusal by the store is sent."""
        self.store.waiting = Deferred()
        self.store.waiting.callback(Refusal(Problem.STORAGE_UNAVAILABLE, "no disk"))
        self.assertEqual(self.ask("GET", "/-/streams").status, 503)

    def test_a_bug(self) -> None:
        """An internal error is logged, and the client gets its id."""
        self.store.waiting = Deferred()
        self.store.waiting.errback(ZeroDivisionError())
        self.assertEqual(self.ask("GET", "/-/streams").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_disconnect(self) -> None:
        """A client that disconnects leaves nothing behind."""
        cancelled: list[object] = []
        self.store.waiting = Deferred(cancelled.append)
        client = Client(self.site)
        client.request("GET", "/-/streams")
        client.leave()
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(client.answers(), [])
