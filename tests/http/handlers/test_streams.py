"""Tests of `durable_streams_tw.http.handlers.streams` and `reads`, without an HTTP server."""

from __future__ import annotations

import gzip
import json
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http import limits
from durable_streams_tw.http.messages import HeadMemo, Request, Response
from durable_streams_tw.http.settings import Settings
from durable_streams_tw.protocol.limits import CURSOR_EPOCH, CURSOR_INTERVAL
from durable_streams_tw.storage.memory.store import MemoryStore
from tests.http.server_fixture import MORNING, FakeThreads, ServerFixture
from tests.tokens import at, position_of


class Case(SynchronousTestCase):
    """Test case with a handler over a store in memory."""

    settings: Settings | None = None
    # Memo of the next requests.
    memo: HeadMemo | None = None

    def setUp(self) -> None:
        self.fixture = ServerFixture(self.settings)
        self.handler = self.fixture.streams.stream_handler

    def begin(
        self, method: str, target: str, body: bytes = b"", **header: str
    ) -> Deferred[Response]:
        """Send a request; underscores in header names stand for hyphens."""
        path, _, query = target.encode().partition(b"?")
        fields = {
            name.lower().replace("_", "-").encode(): value.encode()
            for name, value in header.items()
        }
        url = b"http://h/s/" + path
        request = Request(method.encode(), b"/s/", path, query, fields, body, url, self.memo)
        responded: Deferred[Any] = maybeDeferred(self.handler.respond_deferred, request)
        return responded.addErrback(self.handler.error_response, fields.get(b"origin"))

    def ask(self, method: str, target: str, body: bytes = b"", **header: str) -> Response:
        """Send a request and return its response."""
        return self.successResultOf(self.begin(method, target, body, **header))

    def fields(self, response: Response) -> dict[str, str]:
        """Return the headers by lower-case name; only Vary may be repeated."""
        found: dict[str, str] = {}
        for name, value in response.headers:
            key = name.decode().lower()
            self.assertTrue(key not in found or key == "vary", key)
            found[key] = f"{found[key]}, {value.decode()}" if key in found else value.decode()
        return found

    def put(self, path: str, content_type: str = "text/plain", body: bytes = b"") -> None:
        """Create a stream."""
        self.assertEqual(self.ask("PUT", path, body, Content_Type=content_type).status, 201)


class WriteTests(Case):
    """PUT, POST, DELETE, HEAD and OPTIONS."""

    def test_create(self) -> None:
        """201 with Location for a new stream, 200 for an existing one."""
        fresh = self.ask("PUT", "a", b"xy", Content_Type="text/plain")
        self.assertEqual((fresh.status, fresh.body), (201, b""))
        self.assertEqual(self.fields(fresh)["location"], "http://h/s/a")
        self.assertEqual(self.fields(fresh)["content-type"], "text/plain")
        self.assertEqual(position_of(self.fields(fresh)["stream-next-offset"]), 2)
        again = self.ask("PUT", "a", Content_Type="text/plain")
        self.assertEqual(again.status, 200)
        self.assertNotIn("location", self.fields(again))

    def test_subscriptions_of_another_root(self) -> None:
        """A PUT for a subscription at a wrong root creates no stream."""
        path = "v1/stream/__ds/subscriptions/s"
        answer = self.ask("PUT", path, b"{}", Content_Type="application/json")
        self.assertEqual(answer.status, 404)
        assert isinstance(answer.body, bytes)
        self.assertIn(b"--root", answer.body)
        self.assertEqual(self.ask("PUT", "a/__ds/b", Content_Type="text/plain").status, 201)

    def test_fork(self) -> None:
        """The source of a fork is given by its path, root included."""
        self.put("a", body=b"xyz")
        answer = self.ask("PUT", "b", Stream_Forked_From="/s/a", Stream_Fork_Offset=at(2))
        self.assertEqual(answer.status, 201)
        self.assertEqual(self.fields(answer)["content-type"], "text/plain")
        self.assertEqual(self.ask("GET", "b").body, b"xy")

    def test_append(self) -> None:
        """204 with the next offset."""
        self.put("a")
        answer = self.ask("POST", "a", b"xyz", Content_Type="text/plain")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(position_of(self.fields(answer)["stream-next-offset"]), 3)

    def test_producer(self) -> None:
        """200 for a new batch, 204 for a duplicate."""
        self.put("a")
        batch: dict[str, str] = {
            "Content_Type": "text/plain",
            "Producer_Id": "p",
            "Producer_Epoch": "0",
            "Producer_Seq": "0",
        }
        first, second = self.ask("POST", "a", b"x", **batch), self.ask("POST", "a", b"x", **batch)
        self.assertEqual((first.status, second.status), (200, 204))
        self.assertEqual(self.fields(second)["producer-seq"], "0")
        self.assertEqual(self.ask("GET", "a").body, b"x")

    def test_delete(self) -> None:
        self.put("a")
        self.assertEqual(self.ask("DELETE", "a").status, 204)
        for method in ("GET", "HEAD", "DELETE"):
            self.assertEqual(self.ask(method, "a").status, 404)

    def test_describe(self) -> None:
        """HEAD has all headers, and its response is not cached."""
        self.ask("PUT", "a", b"xyz", Content_Type="text/plain", Stream_TTL="60")
        self.ask("POST", "a", Stream_Closed="TRUE")
        answer = self.ask("HEAD", "a?offset=nonsense&live=sse")
        about = self.fields(answer)
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(about["stream-ttl"], "60")
        self.assertEqual(about["stream-closed"], "true")
        self.assertEqual(position_of(about["stream-next-offset"]), 3)
        self.assertEqual(about["cache-control"], "no-store")
        self.assertEqual(about["etag"], self.fields(self.ask("GET", "a"))["etag"])

    def test_describing_is_no_access(self) -> None:
        """HEAD does not renew the TTL; a read does, at the tail too."""
        self.ask("PUT", "a", Content_Type="text/plain", Stream_TTL="10")
        self.fixture.clock.rightNow += 9
        self.assertEqual(self.ask("GET", "a?offset=now").status, 200)
        self.fixture.clock.rightNow += 9
        self.assertEqual(self.ask("HEAD", "a").status, 200)
        self.fixture.clock.rightNow += 1.5
        self.assertEqual(self.ask("HEAD", "a").status, 404)

    def test_options(self) -> None:
        """OPTIONS is answered the same for every path."""
        for path in ("a", "missing", "a//b"):
            answer = self.ask("OPTIONS", path)
            about = self.fields(answer)
            self.assertEqual(answer.status, 204)
            self.assertIn("If-None-Match", about["access-control-allow-headers"])
            for name in ("Producer-Id", "If-Match", "traceparent", "tracestate"):
                self.assertIn(name, about["access-control-allow-headers"].split(", "))
            self.assertIn("DELETE", about["access-control-allow-methods"])
            self.assertIn("HEAD", about["allow"])

    def test_a_large_body_is_validated_in_a_thread(self) -> None:
        """A large JSON body is validated in a thread, and later writes to the stream wait."""
        threads = FakeThreads()
        self.fixture = ServerFixture(in_thread=threads)
        self.handler = self.fixture.streams.stream_handler
        self.put("a", "application/json")
        self.put("b", "application/json")
        large = b'"' + b"x" * limits.INLINE_BODY + b'"'
        first = self.begin("POST", "a", large, Content_Type="application/json")
        second = self.begin("POST", "a", b"2", Content_Type="application/json")
        other = self.begin("POST", "b", b"3", Content_Type="application/json")
        self.assertEqual(self.successResultOf(other).status, 204)
        self.assertNoResult(first)
        self.assertNoResult(second)
        threads.run()
        self.assertEqual(self.successResultOf(first).status, 204)
        self.assertEqual(self.successResultOf(second).status, 204)
        self.assertEqual(self.ask("GET", "a").body, b"[" + large + b",2]")

    def test_a_large_body_of_bytes_is_not(self) -> None:
        """A large binary body needs no thread."""
        self.fixture = ServerFixture(in_thread=FakeThreads())
        self.handler = self.fixture.streams.stream_handler
        self.put("a", "text/plain", b"x" * (limits.INLINE_BODY + 1))


class MemoTests(Case):
    """Appends that share a memo, as equal heads of one connection do."""

    def append(self, memo: HeadMemo, body: bytes, **header: str) -> Response:
        """Send an append to the stream ``a``."""
        self.memo = memo
        answer = self.ask("POST", "a", body, **header)
        self.memo = None
        return answer

    def test_bodies(self) -> None:
        """Each append appends its own body."""
        self.put("a")
        memo = HeadMemo()
        for body in (b"one", b"two", b"3" * (limits.INLINE_BODY + 1), b"four"):
            answer = self.append(memo, body, Content_Type="text/plain")
            self.assertEqual(answer.status, 204)
        expected = b"onetwo" + b"3" * (limits.INLINE_BODY + 1) + b"four"
        self.assertEqual(self.ask("GET", "a?offset=-1").body, expected)
        self.assertEqual(self.append(memo, b"", Content_Type="text/plain").status, 400)

    def test_refused(self) -> None:
        """Each append with malformed headers is refused, and each that may be made once."""
        self.put("a")
        memo = HeadMemo()
        for _ in range(2):
            self.assertEqual(self.append(memo, b"x", Stream_Seq="").status, 400)
        self.assertEqual(memo, HeadMemo())
        fields = {"Content_Type": "text/plain"}
        for once in (fields | {"Stream_Seq": "1"}, fields | {"Stream_Closed": "true"}):
            memo = HeadMemo()
            self.assertEqual(self.append(memo, b"x", **once).status, 204)
            self.assertEqual(self.append(memo, b"x", **once).status, 409)


class ReadTests(Case):
    """GET without waiting."""

    def test_document(self) -> None:
        """JSON streams are read as arrays, empty ones too."""
        self.put("a", "application/json")
        self.assertEqual(self.ask("GET", "a").body, b"[]")
        self.ask("POST", "a", b'[1.0, {"b": "c,d"}]', Content_Type="application/json")
        self.assertEqual(self.ask("GET", "a").body, b'[1.0,{"b": "c,d"}]')
        self.assertEqual(self.ask("GET", "a?offset=now").body, b"[]")

    def test_chunks(self) -> None:
        """A large stream is read in chunks; only the last one says up-to-date."""
        self.fixture = ServerFixture(Settings(max_chunk=1000))
        self.handler = self.fixture.streams.stream_handler
        self.put("a", body=b"x" * 2500)
        self.ask("POST", "a", Stream_Closed="true")
        sizes, offset = [], "-1"
        for last in (False, False, True):
            answer = self.ask("GET", f"a?offset={offset}")
            about = self.fields(answer)
            sizes.append(len(bytes(answer.body)))  # type: ignore[arg-type]
            self.assertEqual("stream-up-to-date" in about, last)
            self.assertEqual("stream-closed" in about, last)
            offset = about["stream-next-offset"]
        self.assertEqual(sizes, [1000, 1000, 500])

    def test_not_modified(self) -> None:
        """304 repeats the headers that caches need."""
        self.put("a", body=b"x")
        before = self.ask("GET", "a")
        tag = self.fields(before)["etag"]
        answer = self.ask("GET", "a", If_None_Match=f'"other", W/{tag}')
        about = self.fields(answer)
        self.assertEqual((answer.status, answer.body), (304, b""))
        for name in ("etag", "cache-control", "stream-next-offset", "stream-up-to-date"):
            self.assertEqual(about[name], self.fields(before)[name])
        self.assertNotIn("content-type", about)
        self.assertEqual(self.ask("GET", "a", If_None_Match="*").status, 304)
        self.assertEqual(self.ask("GET", "a", If_None_Match='"other"').status, 200)

    def test_match(self) -> None:
        """A read gets 412 if If-Match has not the ETag of its response, also if it has none."""
        self.put("a", body=b"x")
        tag = self.fields(self.ask("GET", "a"))["etag"]
        for target in ("a", "a?offset=-1&live=long-poll"):
            self.assertEqual(self.ask("GET", target, If_Match=tag).status, 200)
            self.assertEqual(self.ask("GET", target, If_Match="*").status, 200)
            refused = self.ask("GET", target, If_Match='"x"', If_None_Match=tag)
            self.assertEqual((refused.status, self.fields(refused)["etag"]), (412, tag))
        self.assertEqual(self.ask("GET", "a", If_Match=tag, If_None_Match=tag).status, 304)
        for target in ("a?offset=now", "a?offset=-1&live=sse", "a?offset=now&live=long-poll"):
            self.assertEqual(self.ask("GET", target, If_Match=tag).status, 412, target)
        self.assertEqual(self.ask("GET", "a?offset=now", If_Match="*").status, 200)
        self.assertEqual(self.ask("GET", "b", If_Match=tag).status, 404)
        self.assertEqual(self.ask("HEAD", "a", If_Match=tag).status, 200)
        self.assertEqual(self.ask("HEAD", "a", If_Match='"x"').status, 412)
        answer = self.ask("HEAD", "a", If_None_Match=tag)
        self.assertEqual((answer.status, answer.body), (304, b""))

    def test_tags_change(self) -> None:
        """The ETag changes with appends, closing and a new incarnation."""
        tags = []
        self.put("a", body=b"x")
        tags.append(self.fields(self.ask("GET", "a"))["etag"])
        self.ask("POST", "a", b"y", Content_Type="text/plain")
        tags.append(self.fields(self.ask("GET", "a"))["etag"])
        self.ask("POST", "a", Stream_Closed="true")
        tags.append(self.fields(self.ask("GET", "a"))["etag"])
        self.assertTrue(tags[-1].endswith(':c"'))
        self.ask("DELETE", "a")
        self.put("a", body=b"x")
        tags.append(self.fields(self.ask("GET", "a"))["etag"])
        self.assertEqual(len(set(tags)), 4)

    def test_now_has_no_tag(self) -> None:
        """A read at offset ``now`` has no ETag."""
        self.put("a", body=b"x")
        answer = self.ask("GET", "a?offset=now", If_None_Match="*")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(self.fields(answer)["cache-control"], "no-store")
        self.assertNotIn("etag", self.fields(answer))

    def caching(self, target: str) -> str:
        """Return the Cache-Control header of a read."""
        return self.fields(self.ask("GET", target))["cache-control"]

    def test_caching(self) -> None:
        """Stored bytes may be cached, an empty read may not."""
        fresh = "public, max-age=60, stale-while-revalidate=300"
        self.put("a", body=b"x")
        self.assertEqual(self.caching("a"), fresh)
        self.assertEqual(self.caching(f"a?offset={at(1)}"), "no-cache")
        self.ask("POST", "a", Stream_Closed="true")
        self.assertEqual(self.caching(f"a?offset={at(1)}"), fresh)

    def test_caching_of_what_ends(self) -> None:
        """Caches keep a response no longer than the stream lives."""
        self.ask("PUT", "ttl", b"x", Content_Type="text/plain", Stream_TTL="100")
        self.assertEqual(self.caching("ttl"), "public, max-age=60, stale-while-revalidate=40")
        self.ask("PUT", "ttl2", b"x", Content_Type="text/plain", Stream_TTL="3600")
        self.assertEqual(self.caching("ttl2"), "public, max-age=60, stale-while-revalidate=300")
        # Five seconds after `MORNING`.
        moment = "2027-01-15T08:00:05.900Z"
        self.ask("PUT", "at", b"x", Content_Type="text/plain", Stream_Expires_At=moment)
        self.assertEqual(self.caching("at"), "public, max-age=5, stale-while-revalidate=0")

    def test_what_browsers_may_do_with_it(self) -> None:
        """Browsers run nothing of a stream, and display text and JSON only."""
        for kind, shown in (
            ("text/plain", True),
            ("text/plain; charset=utf-8", True),
            ("application/json", True),
            ("text/html", False),
            ("image/svg+xml", False),
            ("application/octet-stream", False),
        ):
            self.put("a", kind, b"1")
            about = self.fields(self.ask("GET", "a"))
            self.assertEqual(about["content-security-policy"], "default-src 'none'; sandbox")
            self.assertEqual(about.get("content-disposition"), None if shown else "attachment")
            self.assertEqual(about["content-type"], kind)
            self.ask("DELETE", "a")


class GzipTests(Case):
    """Compression of responses."""

    BODY = b"text and more text, " * 500

    def test_compressed(self) -> None:
        self.put("a", body=self.BODY)
        plain, small = self.ask("GET", "a"), self.ask("GET", "a", Accept_Encoding="br, gzip")
        assert isinstance(small.body, bytes)
        self.assertEqual(gzip.decompress(small.body), self.BODY)
        self.assertLess(len(small.body), len(self.BODY) // 4)
        self.assertEqual(self.fields(small)["content-encoding"], "gzip")
        self.assertNotIn("content-encoding", self.fields(plain))
        for answer in (plain, small):
            self.assertEqual(self.fields(answer)["vary"], "Accept-Encoding")
        self.assertNotEqual(self.fields(plain)["etag"], self.fields(small)["etag"])

    def test_not_modified(self) -> None:
        """Each coding has its own ETag."""
        self.put("a", body=self.BODY)
        tag = self.fields(self.ask("GET", "a", Accept_Encoding="gzip"))["etag"]
        again = self.ask("GET", "a", Accept_Encoding="gzip", If_None_Match=tag)
        self.assertEqual(again.status, 304)
        self.assertEqual(self.fields(again)["vary"], "Accept-Encoding")
        self.assertNotIn("content-encoding", self.fields(again))
        self.assertEqual(self.ask("GET", "a", If_None_Match=tag).status, 200)

    def test_match(self) -> None:
        """If-Match with the ETag of either coding is met, as for writes; 412 has the response's."""
        self.put("a", body=self.BODY)
        tags = [
            self.fields(self.ask("GET", "a", Accept_Encoding=coding))["etag"]
            for coding in ("identity", "gzip")
        ]
        for tag in tags:
            self.assertEqual(self.ask("HEAD", "a", If_Match=tag).status, 200)
            for coding in ("identity", "gzip"):
                answer = self.ask("GET", "a", Accept_Encoding=coding, If_Match=tag)
                self.assertEqual(answer.status, 200)
        for coding, tag in zip(("identity", "gzip"), tags, strict=True):
            refused = self.ask("GET", "a", Accept_Encoding=coding, If_Match='"x"')
            self.assertEqual((refused.status, self.fields(refused)["etag"]), (412, tag))

    def test_not_wanted(self) -> None:
        self.put("a", body=self.BODY)
        for wanted in ("identity", "gzip;q=0", "br", "*;q=0"):
            self.assertEqual(self.ask("GET", "a", Accept_Encoding=wanted).body, self.BODY)

    def test_not_worth_it(self) -> None:
        """Small bodies and compressed types are not compressed, and have no Vary."""
        self.put("a", body=b"x" * (limits.MIN_GZIP - 1))
        self.put("b", "image/png", self.BODY)
        for path in ("a", "b"):
            about = self.fields(self.ask("GET", path, Accept_Encoding="gzip"))
            self.assertNotIn("content-encoding", about)
            self.assertNotIn("vary", about)

    def test_json(self) -> None:
        """Compression applies to the JSON document."""
        self.put("a", "application/json", b"[" + b",".join([b'{"a": 1}'] * 500) + b"]")
        body = self.ask("GET", "a", Accept_Encoding="gzip").body
        assert isinstance(body, bytes)
        self.assertEqual(json.loads(gzip.decompress(body)), [{"a": 1}] * 500)

    def test_large_ones_in_a_thread(self) -> None:
        """Large bodies are compressed in a thread."""
        threads = FakeThreads()
        self.fixture = ServerFixture(in_thread=threads)
        self.handler = self.fixture.streams.stream_handler
        self.put("a", body=b"x" * (limits.INLINE_GZIP + 1))
        asked = self.begin("GET", "a", Accept_Encoding="gzip")
        self.assertNoResult(asked)
        threads.run()
        self.assertEqual(self.fields(self.successResultOf(asked))["content-encoding"], "gzip")


class CorsTests(Case):
    """CORS headers."""

    settings = Settings(cors_origins=("https://one.example", "https://two.example"))

    def test_known_origin(self) -> None:
        """An allowed origin is named, and every response has Vary: Origin."""
        self.put("a")
        for target, status in (("a", 200), ("missing", 404), ("a//b", 400), ("__ds", 404)):
            answer = self.ask("GET", target, Origin="https://two.example")
            about = self.fields(answer)
            self.assertEqual(answer.status, status)
            self.assertEqual(about["access-control-allow-origin"], "https://two.example")
            self.assertEqual(about["vary"], "Origin")
            self.assertIn("Stream-SSE-Data-Encoding", about["access-control-expose-headers"])

    def test_others(self) -> None:
        """Other origins get no CORS headers."""
        self.put("a")
        for origin in ("https://three.example", "null", ""):
            about = self.fields(self.ask("GET", "a", Origin=origin))
            self.assertEqual(about["vary"], "Origin")
            self.assertNotIn("access-control-allow-origin", about)
            self.assertEqual(about["x-content-type-options"], "nosniff")

    def test_preflight(self) -> None:
        about = self.fields(self.ask("OPTIONS", "a", Origin="https://one.example"))
        self.assertEqual(about["access-control-allow-origin"], "https://one.example")
        self.assertNotIn("access-control-allow-origin", self.fields(self.ask("OPTIONS", "a")))

    def test_private(self) -> None:
        self.fixture = ServerFixture(Settings(private=True))
        self.handler = self.fixture.streams.stream_handler
        self.put("a", body=b"x")
        self.assertEqual(
            self.fields(self.ask("GET", "a"))["cache-control"],
            "private, max-age=60, stale-while-revalidate=300",
        )


class FailureTests(Case):
    """Internal errors."""

    def test_failure(self) -> None:
        """An internal error is 500 with an id, which the log has too."""

        class Broken(MemoryStore):
            def get_state(self, path: str) -> Deferred[Any]:
                raise RuntimeError("a secret")

        self.fixture = ServerFixture(store=Broken(lambda: int(MORNING * 1000)))
        self.handler = self.fixture.streams.stream_handler
        answer = self.ask("HEAD", "a", Origin="https://app.example")
        self.assertEqual(answer.status, 500)
        self.assertEqual(self.fields(answer)["access-control-allow-origin"], "*")
        assert isinstance(answer.body, bytes)
        self.assertNotIn(b"secret", answer.body)
        mark = json.loads(answer.body)["detail"].split()[2].rstrip(":")
        self.assertEqual(len(mark), 12)
        (logged,) = self.flushLoggedErrors(RuntimeError)
        self.assertEqual(str(logged.value), "a secret")

    def test_clock_is_a_wall_clock(self) -> None:
        """Cursors and deadlines use the wall clock."""
        self.assertIsInstance(self.fixture.clock, Clock)
        self.put("a", body=b"x")
        answer = self.ask("GET", "a?offset=-1&live=long-poll")
        cursor = int(self.fields(answer)["stream-cursor"])
        self.assertEqual(cursor, int(MORNING - CURSOR_EPOCH) // CURSOR_INTERVAL)
