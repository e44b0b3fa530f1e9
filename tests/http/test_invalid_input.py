"""Tests of invalid input: status, problem type and message; nothing is stored or logged."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http import limits
from durable_streams_tw.http.settings import Settings
from tests.http.server_fixture import ROOT, ServerFixture

TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}
PRODUCER = {"Producer-Id": "p", "Producer-Epoch": "0", "Producer-Seq": "0"}
DATE = "Sat, 28 Nov 2026 12:00:00 GMT"
SECOND = "0000000000000000_0000000000000002"

Case = tuple[str, str, dict[str, str], bytes, int, str]


def get(query: str, status: int, problem: str) -> Case:
    """Return a case of a GET on the text stream."""
    return ("GET", f"text?{query}", {}, b"", status, problem)


def put(header: dict[str, str], body: bytes, status: int, problem: str) -> Case:
    """Return a case of a PUT for a missing stream."""
    return ("PUT", "new", header, body, status, problem)


def post(header: dict[str, str], body: bytes, status: int, problem: str) -> Case:
    """Return a case of a POST to the text stream."""
    return ("POST", "text", header, body, status, problem)


def invalid_path(path: str, problem: str = "malformed-path") -> Case:
    """Return a case of a path that does not name a stream."""
    return ("PUT", path, TEXT, b"", 400, problem)


CASES: list[Case] = [
    # offsets
    get("offset=", 400, "malformed-offset"),
    get("offset=x", 400, "malformed-offset"),
    get("offset=-2", 400, "malformed-offset"),
    get("offset=1", 400, "malformed-offset"),
    get("offset=1_2_3", 400, "malformed-offset"),
    get("offset=_1", 400, "malformed-offset"),
    get("offset=-1%20", 400, "malformed-offset"),
    get("offset=now%0A", 400, "malformed-offset"),
    get("offset=%00", 400, "malformed-offset"),
    get("offset=0%2C1", 400, "malformed-offset"),
    get("offset=../0", 400, "malformed-offset"),
    get("offset=0/..", 400, "malformed-offset"),
    get("offset=%D9%A0_%D9%A0", 400, "malformed-offset"),
    get("offset=-1&offset=-1", 400, "malformed-request"),
    get("offset=-1&offset=now", 400, "malformed-request"),
    get("offset=-1&%6Fffset=-1", 400, "malformed-request"),
    get("offset=0000000000000000_0000000000000009", 400, "offset-out-of-range"),
    get("offset=9999999999999999_9999999999999999", 410, "offset-gone"),
    get("offset=0_99999999999999999", 400, "offset-out-of-range"),
    get("offset=0000000000000001_0000000000000000", 410, "offset-gone"),
    ("GET", f"json?offset={SECOND}", {}, b"", 400, "offset-out-of-range"),
    # live
    get("live=long-poll", 400, "malformed-offset"),
    get("live=sse", 400, "malformed-offset"),
    get("offset=-1&live=", 400, "malformed-request"),
    get("offset=-1&live=true", 400, "malformed-request"),
    get("offset=-1&live=SSE", 400, "malformed-request"),
    get("offset=-1&live=sse&live=sse", 400, "malformed-request"),
    get("offset=-1&live=sse&cursor=1&cursor=2", 400, "malformed-request"),
    # lifetimes
    put({**TEXT, "Stream-TTL": "abc"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-TTL": "-1"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-TTL": "+60"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-TTL": "060"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-TTL": "60.5"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-TTL": "1e3"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-TTL": "9" * 30}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-TTL": "99999999999"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-Expires-At": "tomorrow"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-Expires-At": "2030-02-30T00:00:00Z"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-Expires-At": "2030-01-01 00:00:00"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-Expires-At": "2020-01-01T00:00:00Z"}, b"", 400, "malformed-field"),
    put({**TEXT, "Stream-Expires-At": "0000-01-01T00:00:00Z"}, b"", 400, "malformed-field"),
    put(
        {**TEXT, "Stream-TTL": "60", "Stream-Expires-At": "2030-01-01T00:00:00Z"},
        b"",
        400,
        "malformed-field",
    ),
    # content
    put({"Content-Type": "text"}, b"", 400, "malformed-field"),
    put({"Content-Type": "text/pl ain"}, b"", 400, "malformed-field"),
    put({"Content-Type": "x/" + "y" * 2000}, b"", 400, "malformed-field"),
    put({**TEXT, "Content-Encoding": "gzip"}, b"x", 415, "unsupported-encoding"),
    put(JSON, b"{", 400, "invalid-json"),
    put(JSON, b"[1,]", 400, "invalid-json"),
    put(JSON, b" ", 400, "invalid-json"),
    put(JSON, b"NaN", 400, "invalid-json"),
    put(JSON, b'"\xff"', 400, "invalid-json"),
    put(JSON, b'"\xed\xa0\x80"', 400, "invalid-json"),
    put(JSON, b"\xef\xbb\xbf1", 400, "invalid-json"),
    put(JSON, b"[" * 100_000, 400, "invalid-json"),
    put(JSON, b"[" * 5_000 + b"]" * 5_000, 400, "invalid-json"),
    put(JSON, b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400, "invalid-json"),
    put(JSON, b"[" + b"1," * 200_000 + b"1]", 413, "too-many-messages"),
    # forks
    put({"Stream-Forked-From": "/elsewhere/text"}, b"", 404, "stream-not-found"),
    put({"Stream-Forked-From": f"{ROOT}missing"}, b"", 404, "stream-not-found"),
    put({"Stream-Forked-From": f"{ROOT}a/../text"}, b"", 400, "malformed-path"),
    put({"Stream-Forked-From": f"{ROOT}a%00"}, b"", 400, "malformed-path"),
    put({"Stream-Fork-Offset": SECOND}, b"", 400, "invalid-fork"),
    put({"Stream-Fork-Sub-Offset": "0"}, b"", 400, "invalid-fork"),
    put(
        {"Stream-Forked-From": f"{ROOT}text", "Stream-Fork-Offset": "x"},
        b"",
        400,
        "malformed-offset",
    ),
    put(
        {"Stream-Forked-From": f"{ROOT}text", "Stream-Fork-Sub-Offset": "05"},
        b"",
        400,
        "malformed-field",
    ),
    # appends
    post(TEXT, b"", 400, "empty-body"),
    post({**TEXT, "Stream-Closed": "false"}, b"", 400, "empty-body"),
    post({**TEXT, "Stream-Closed": "1"}, b"", 400, "empty-body"),
    post({}, b"x", 400, "malformed-field"),
    post(JSON, b"1", 409, "content-type-mismatch"),
    post({**TEXT, "Stream-Seq": ""}, b"x", 400, "malformed-field"),
    post({**TEXT, "Stream-Seq": "s" * 2000}, b"x", 400, "malformed-field"),
    post({**TEXT, "Content-Encoding": "br"}, b"x", 415, "unsupported-encoding"),
    ("POST", "json", JSON, b"[]", 400, "invalid-json"),
    ("POST", "json", {**JSON, "Stream-Closed": "true"}, b"[]", 400, "invalid-json"),
    ("POST", "json", JSON, b"{'a': 1}", 400, "invalid-json"),
    ("POST", "json", JSON, b"[" + b" " * limits.INLINE_BODY + b"1,]", 400, "invalid-json"),
    ("POST", "missing", TEXT, b"x", 404, "stream-not-found"),
    # preconditions
    post({**TEXT, "If-Match": '"bogus"'}, b"x", 412, "precondition-failed"),
    post({**TEXT, "If-None-Match": "*"}, b"x", 412, "precondition-failed"),
    post({**TEXT, "If-Match": "bogus"}, b"x", 400, "malformed-field"),
    post({**TEXT, "If-None-Match": '"a" "b"'}, b"x", 400, "malformed-field"),
    post({**TEXT, "If-Unmodified-Since": DATE}, b"x", 412, "precondition-failed"),
    ("DELETE", "text", {"If-Match": '"bogus"'}, b"", 412, "precondition-failed"),
    ("DELETE", "text", {"If-None-Match": "*"}, b"", 412, "precondition-failed"),
    ("DELETE", "text", {"If-Unmodified-Since": DATE}, b"", 412, "precondition-failed"),
    ("DELETE", "missing", {"If-Match": "*"}, b"", 404, "stream-not-found"),
    ("PUT", "text", {**TEXT, "If-None-Match": "*"}, b"", 412, "precondition-failed"),
    ("PUT", "text", {**JSON, "If-None-Match": "*"}, b"", 409, "stream-exists"),
    put({**TEXT, "If-Match": "*"}, b"", 412, "precondition-failed"),
    put({**TEXT, "If-Unmodified-Since": DATE}, b"", 412, "precondition-failed"),
    # producers
    post({**TEXT, "Producer-Id": "p"}, b"x", 400, "malformed-field"),
    post({**TEXT, "Producer-Epoch": "0"}, b"x", 400, "malformed-field"),
    post({**TEXT, "Producer-Id": "p", "Producer-Seq": "0"}, b"x", 400, "malformed-field"),
    post({**TEXT, **PRODUCER, "Producer-Id": ""}, b"x", 400, "malformed-field"),
    post({**TEXT, **PRODUCER, "Producer-Id": "p" * 2000}, b"x", 400, "malformed-field"),
    post({**TEXT, **PRODUCER, "Producer-Epoch": "-1"}, b"x", 400, "malformed-field"),
    post({**TEXT, **PRODUCER, "Producer-Seq": "1e3"}, b"x", 400, "malformed-field"),
    post({**TEXT, **PRODUCER, "Producer-Seq": "0x0"}, b"x", 400, "malformed-field"),
    post({**TEXT, **PRODUCER, "Producer-Seq": str(2**53)}, b"x", 400, "malformed-field"),
    post({**TEXT, **PRODUCER, "Producer-Seq": "1"}, b"x", 409, "sequence-gap"),
    # names
    invalid_path("%00"),
    invalid_path("a%0Ab"),
    invalid_path("a%0D%0Ab"),
    invalid_path("a%1Fb"),
    invalid_path("a%7Fb"),
    invalid_path("a%C2%85b"),
    invalid_path("a%E2%80%A8b"),
    invalid_path("a%"),
    invalid_path("a%2"),
    invalid_path("a%zz"),
    invalid_path("%C3%28"),
    invalid_path("%ED%A0%80"),
    invalid_path(".."),
    invalid_path("a/.."),
    invalid_path("a/../b"),
    invalid_path("a/%2e%2e/b"),
    invalid_path("a//b"),
    invalid_path("a%2F%2Fb"),
    invalid_path("a/"),
    invalid_path("a" * 2049),
    invalid_path("%61" * 2049),
    invalid_path("a#b", "malformed-request"),
    # methods
    ("PATCH", "text", TEXT, b"x", 405, "method-not-allowed"),
    ("TRACE", "text", {}, b"", 405, "method-not-allowed"),
    ("get", "text", {}, b"", 405, "method-not-allowed"),
    ("X!", "text", {}, b"", 405, "method-not-allowed"),
    ("PROPFIND", "a//b", {}, b"", 405, "method-not-allowed"),
    # reserved
]


class InvalidInputTests(SynchronousTestCase):
    """Cases on one server whose content must not change."""

    def setUp(self) -> None:
        self.fixture = ServerFixture()
        self.fixture.put("text", body=b"ab")
        self.fixture.put("json", "application/json", b'["a,b",{}]')

    def contents(self) -> list[object]:
        """Return the number of streams and the content of both streams."""
        store: Any = self.fixture.streams._store
        return [
            store.count(),
            self.successResultOf(store.read("text", 0, 1_000_000)),
            self.successResultOf(store.read("json", 0, 1_000_000)),
        ]

    def test_cases(self) -> None:
        """Each case gets its status and problem type, a complete response, and no change."""
        before = self.contents()
        for method, path, header, body, status, problem in CASES:
            case = f"{method} {path[:60]} {header} {body[:30]!r}"[:200]
            answer = self.fixture.ask(method, path, header, body)
            self.assertEqual(answer.status, status, case)
            self.assertTrue(answer.complete, case)
            self.assertEqual(answer.header["content-type"], "application/problem+json", case)
            self.assertEqual(answer.header["cache-control"], "no-store", case)
            self.assertEqual(answer.header["x-content-type-options"], "nosniff", case)
            self.assertEqual(answer.header["cross-origin-resource-policy"], "cross-origin", case)
            self.assertEqual(answer.header["access-control-allow-origin"], "*", case)
            said = json.loads(answer.body)
            self.assertEqual(said["type"], f"urn:durable-streams:problem:{problem}", case)
            self.assertEqual(said["status"], status, case)
            self.assertTrue(said["title"] and said["detail"], case)
            self.assertNotIn("Traceback", said["detail"], case)
        self.assertEqual(self.contents(), before)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_allow_header(self) -> None:
        """A 405 response has the header Allow (RFC 9110 §15.5.6)."""
        answer = self.fixture.ask("PATCH", "text")
        self.assertEqual(answer.header["allow"], "GET, HEAD, POST, PUT, DELETE, OPTIONS")

    def test_head_request(self) -> None:
        """HEAD gets the status and headers of GET, without a body."""
        answer = self.fixture.ask("HEAD", "missing")
        self.assertEqual((answer.status, answer.body), (404, b""))
        self.assertEqual(answer.header["content-type"], "application/problem+json")

    def test_repeated_field(self) -> None:
        """A header that was sent twice is refused."""
        client = self.fixture.connect()
        client.send(
            f"PUT {ROOT}new HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n"
            "Stream-TTL: 1\r\nStream-TTL: 1\r\nContent-Length: 0\r\n\r\n".encode()
        )
        self.assertEqual(client.answers()[0].status, 400)

    def test_body_too_large(self) -> None:
        """A body above the configured limit gets 413, and nothing is stored."""
        fixture = ServerFixture(Settings(max_body=3))
        fixture.put("text", body=b"abc")
        for method, path in (("POST", "text"), ("PUT", "new"), ("GET", "text"), ("X", "text")):
            answer = fixture.ask(method, path, TEXT, b"abcd")
            self.assertEqual((method, answer.status), (method, 413))
            self.assertEqual(
                json.loads(answer.body)["type"], "urn:durable-streams:problem:body-too-large"
            )
        self.assertEqual(fixture.ask("GET", "text").body, b"abc")
        self.assertEqual(fixture.ask("GET", "new").status, 404)
