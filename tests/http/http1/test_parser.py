"""Tests of `durable_streams_tw.http.http1.parser`."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import h11
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.http1.parser import Handover, Item, MalformedRequest, RequestParser
from durable_streams_tw.http.messages import Request
from durable_streams_tw.http.request_head import HeadContext
from durable_streams_tw.protocol.errors import Problem, Refusal
from tests.http.malformed.builders import HIDDEN, HOST, chunked, get, post, sized

MAX_BODY = 5_000
AROUND = HeadContext(b"/v1/stream/", MAX_BODY)

BODIES = st.binary(max_size=60) | st.just(HIDDEN) | st.just(b"x" * 3_000)
NAMES = st.sampled_from([b"s", b"a/b", b"a%2Fb", b"s?offset=-1", b"s?"])
FIELDS = st.lists(
    st.sampled_from([b"X: y", b"Accept: a", b"accept: b", b"Producer-Id: p", b"Empty:", b"O:\t o "])
)
METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"BREW"])


@st.composite
def in_chunks(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a body and its chunked encoding."""
    body = draw(BODIES)
    places = draw(st.lists(st.integers(0, len(body)), max_size=5))
    parts = [body[one:other] for one, other in pairwise(sorted({0, *places, len(body)}))]
    style = draw(st.sampled_from([b"%x\r\n", b"%X;a=b\r\n", b"00%x\r\n"]))
    written = b"".join([style % len(part) + part + b"\r\n" for part in parts if part])
    trailer = draw(st.sampled_from([b"", b"X-Sum: 1\r\n"]))
    return body, written + b"0\r\n" + trailer + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, tuple[bytes, bytes, bytes]]:
    """Draw a valid request with its method, target and body."""
    method, target = draw(METHODS), b"/v1/stream/" + draw(NAMES)
    fields = draw(FIELDS)
    framing = draw(st.sampled_from(["none", "length", "chunks"]))
    if framing == "none":
        body = written = b""
    elif framing == "length":
        body = written = draw(BODIES)
        fields.append(b"Content-Length: %d" % len(body))
    else:
        body, written = draw(in_chunks())
        fields.append(b"Transfer-Encoding: chunked")
    fields.insert(draw(st.integers(0, len(fields))), b"Host: a")
    head = b"\r\n".join([method + b" " + target + b" HTTP/1.1", *fields, b"", b""])
    return head + written, (method, target, body)


Sent = tuple[bytes, tuple[bytes, bytes, bytes]]
SEQUENCES = st.lists(requests(), min_size=1, max_size=6)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Draw a split of bytes into pieces."""
    places = draw(st.lists(st.integers(0, len(data)), max_size=8))
    return [data[one:other] for one, other in pairwise(sorted([0, *places, len(data)]))]


def feed(parser: RequestParser, data: bytes) -> None:
    """Feed bytes, and queue the request that is returned, as a connection does."""
    request = parser.feed(data)
    if request is not None:
        parser.queue.append(request)


def items_of(pieces: list[bytes]) -> tuple[list[Item], bytes]:
    """Return the items of these pieces, and the bytes left for a handover."""
    parser = RequestParser(AROUND)
    for piece in pieces:
        feed(parser, piece)
    items = [_by_itself(item) for item in parser.queue]
    return items, bytes(parser.buffer) if Handover() in items else b""


def _by_itself(item: Item) -> Item:
    """Return an item without its cached head."""
    if not isinstance(item, tuple):
        return item
    head, request = item
    return replace(head, section=replace(head.section, pattern=None)), request


def requests_of(items: list[Item]) -> list[Request]:
    """Return the requests among items."""
    return [item[1] for item in items if isinstance(item, tuple)]


def request_parts(request: Request) -> tuple[bytes, bytes, bytes]:
    """Return method, target and body of a request."""
    query = b"?" + request.query if request.query else b""
    return request.method, request.root + request.path + query, request.body


class H11Request(Struct):
    """Request as h11 parses it."""

    method: bytes
    target: bytes
    body: bytes = b""


def requests_of_h11(data: bytes) -> list[H11Request]:
    """Return all complete requests that h11 finds."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    # h11 rejects empty lines before a request; RFC 9112 §2.2 allows one.
    buffer: Any = connection._receive_buffer

    def skip_line() -> None:
        if bytes(buffer).startswith(b"\r\n"):
            buffer.maybe_extract_at_most(2)

    found: list[H11Request] = []
    current = H11Request(b"", b"")
    skip_line()
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                current = H11Request(event.method, event.target)
            elif isinstance(event, h11.Data):
                current.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.append(current)
                connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return found
                connection.start_next_cycle()
                skip_line()
            else:
                return found
    except h11.RemoteProtocolError:
        return found


class GoodRequestsTests(SynchronousTestCase):
    """Valid requests in any pieces."""

    @given(SEQUENCES, st.data())
    def test_any_pieces(self, sequence: list[Sent], data: st.DataObject) -> None:
        """Requests are parsed as they were sent, in any pieces."""
        whole = b"".join([written for written, _ in sequence])
        expected = [meant for _, meant in sequence]
        for pieces in (
            [whole],
            data.draw(cut(whole)),
            [whole[i : i + 1] for i in range(len(whole))],
        ):
            items, _ = items_of(pieces)
            self.assertEqual(len(items), len(sequence))
            got = [
                (m, t.removesuffix(b"?"), b) for m, t, b in map(request_parts, requests_of(items))
            ]
            self.assertEqual(got, [(m, t.removesuffix(b"?"), b) for m, t, b in expected])

    def test_fields(self) -> None:
        """Names are lower-case, values stripped, repeated lists joined."""
        (item,), _ = items_of([get(b"X-A: \t 1 \t", b"x-a:2", b"EMPTY:", b"B:  ")])
        assert isinstance(item, tuple)
        expected = {b"host": b"a", b"x-a": b"1, 2", b"empty": b"", b"b": b""}
        self.assertEqual(item[1].headers, expected)

    def test_trailers_are_no_fields(self) -> None:
        """Trailers are discarded."""
        (item,), _ = items_of([chunked(b"2\r\nhi\r\n0\r\nStream-Closed: true\r\nX: y\r\n\r\n")])
        assert isinstance(item, tuple)
        self.assertEqual(set(item[1].headers), {b"host", b"transfer-encoding"})
        self.assertEqual(item[1].body, b"hi")

    def test_like_the_last(self) -> None:
        """A repeated head is reused; one that only begins like it is not."""
        short = post(b"Content-Length: 1", body=b"a")
        long = post(b"Content-Length: 1", b"X: y", body=b"b")
        other = post(b"Content-Length: 10", body=b"0123456789")
        items, _ = items_of([short + short + long + other + long + short])
        bodies = [request.body for request in requests_of(items)]
        self.assertEqual(bodies, [b"a", b"a", b"b", b"0123456789", b"b", b"a"])

    def test_fields_like_the_last(self) -> None:
        """Parsed headers are reused for another target, but not for another version."""
        fields = HOST + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\n"
        targets = [b"a", b"b?x", b"a", b"c%2Fd"]
        lines = [b"POST /v1/stream/" + target + b" HTTP/1.1\r\n" for target in targets]
        other = b"POST http://b/v1/stream/e HTTP/1.1\r\n"
        items, _ = items_of([b"".join([line + fields + b"hi" for line in [*lines, other]])])
        requests = requests_of(items)
        self.assertEqual([one.path for one in requests], [b"a", b"b", b"a", b"c%2Fd", b"e"])
        self.assertEqual({one.body for one in requests}, {b"hi"})
        self.assertEqual([one.url[:9] for one in requests[-2:]], [b"http://a/", b"http://b/"])
        plain = HOST + b"\r\n"
        versions = [b"GET /v1/stream/s HTTP/1." + minor + b"\r\n" + plain for minor in (b"1", b"0")]
        items, _ = items_of([versions[0] + versions[1] + versions[0]])
        self.assertEqual(len(items), 2)

    def test_single_request(self) -> None:
        """A whole request by itself is returned; with others before or after it, it is queued."""
        parser = RequestParser(AROUND)
        for data in (sized(), sized(), get()):
            request = parser.feed(data)
            assert request is not None
            self.assertEqual(request[1].body, b"" if data == get() else b"hello")
            self.assertEqual(parser.queue, [])
        self.assertIs(parser.feed(sized() + sized()), None)
        self.assertEqual(len(parser.queue), 2)
        self.assertIs(parser.feed(sized()), None)
        self.assertEqual(len(parser.queue), 3)

    def test_size_of_the_last(self) -> None:
        """A repeated request is recognized by its head, where one can begin, and shares the memo;
        a head of its size without its body, another one or a body are not taken for it.
        """
        parser = RequestParser(AROUND)
        last = parser.feed(sized())
        again = parser.feed(sized(b"again"))
        assert last is not None and again is not None
        self.assertEqual(again[1].body, b"again")
        self.assertIs(again[1].memo, last[1].memo)
        other = parser.feed(sized().replace(b"/s ", b"/t "))
        assert other is not None
        self.assertEqual((other[1].path, other[1].body), (b"t", b"hello"))
        self.assertIsNot(other[1].memo, last[1].memo)
        head = post(b"Content-Length: 200")
        body = head.ljust(200, b"x")
        for pieces in ([head + body, head, body], [head, body + head, body]):
            found: list[bytes] = []
            for piece in pieces:
                feed(parser, piece)
                found += [one.body for one in requests_of(parser.queue)]
                parser.queue.clear()
            self.assertEqual(found, [body] * 2)

    def test_release_memory(self) -> None:
        """A parser that dropped the last head reads the next one; within a body it keeps it."""
        parser = RequestParser(AROUND)
        feed(parser, sized()[:-2])
        parser.release_memory()
        feed(parser, sized()[-2:] + sized())
        parser.release_memory()
        feed(parser, sized())
        self.assertEqual([request.body for request in requests_of(parser.queue)], [b"hello"] * 3)

    def test_empty_feed(self) -> None:
        """Empty bytes change nothing."""
        parser = RequestParser(AROUND)
        for piece in (b"", get()[:9], b"", get()[9:], b""):
            feed(parser, piece)
        self.assertEqual(len(parser.queue), 1)
        self.assertTrue(parser.consume is None)


class StateTests(SynchronousTestCase):
    """State of a parser."""

    def test_places(self) -> None:
        """Between requests, in a head and in a body."""
        parser = RequestParser(AROUND)
        self.assertTrue(parser.consume is None)
        data = sized()
        feed(parser, data[:10])
        self.assertEqual((parser.in_head, parser.in_body, parser.held), (True, False, 10))
        feed(parser, data[10:-4])
        self.assertEqual((parser.in_head, parser.in_body, parser.held), (False, True, 1))
        feed(parser, data[-4:])
        self.assertEqual((parser.consume is None, parser.held, parser.received), (True, 5, 5))
        parser.queue.clear()
        self.assertEqual(parser.held, 0)

    def test_held_in_chunks(self) -> None:
        """Bytes of chunks count as held until the last one."""
        parser = RequestParser(AROUND)
        feed(parser, chunked(b"5\r\nhello\r\n"))
        self.assertEqual((parser.in_body, parser.held), (True, 5))
        feed(parser, b"0\r\n\r\n")
        self.assertEqual((parser.consume is None, parser.held), (True, 5))
        parser.queue.clear()
        self.assertEqual(parser.held, 0)

    def test_expecting(self) -> None:
        """The client awaits 100 Continue until the first byte of the body."""
        parser = RequestParser(AROUND)
        feed(parser, post(b"Expect: 100-continue", b"Content-Length: 2"))
        self.assertTrue(parser.awaits_continue)
        feed(parser, b"h")
        self.assertFalse(parser.awaits_continue)

    def test_no_continue(self) -> None:
        """No 100 Continue if the body has arrived, is empty, or belongs to HTTP/1.0."""
        old = b"POST /v1/stream/s HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        for data in (
            post(b"Expect: 100-continue"),
            post(b"Expect: 100-continue", b"Content-Length: 0"),
            post(b"Expect: 100-continue", b"Content-Length: 2", body=b"h"),
            post(b"Content-Length: 2"),
            old,
        ):
            parser = RequestParser(AROUND)
            feed(parser, data)
            self.assertFalse(parser.awaits_continue, data)

    def test_refuse(self) -> None:
        """A refused request is replaced by an item after the complete ones."""
        parser = RequestParser(AROUND)
        feed(parser, sized() + post(b"Origin: https://a", b"Content-Length: 9", body=b"x"))
        fault = MalformedRequest(Refusal(Problem.OVERLOADED, "later"))
        parser.refuse(fault.refusal)
        feed(parser, get())
        self.assertEqual(parser.queue[1:], [MalformedRequest(fault.refusal, b"https://a")])
        self.assertEqual(parser.held, len(b"hello"))

    def test_origin_of_a_fault(self) -> None:
        """A refusal has the Origin if it could be read."""
        origin = b"Origin: https://a"
        for data in (
            post(origin, b"Content-Length: 5001"),
            post(origin, b"Transfer-Encoding: chunked", body=b"z\r\n"),
        ):
            (fault,), _ = items_of([data])
            assert isinstance(fault, MalformedRequest)
            self.assertEqual(fault.origin, b"https://a", data)


class HandoverTests(SynchronousTestCase):
    """Requests that are not for streams."""

    def test_handed_on(self) -> None:
        """From the first request that is not for a stream, all bytes are kept, in any pieces."""
        foreign = b"POST /health HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"
        data = sized() + foreign + get() + b"garbage"
        for size in (1, 7, 100, len(data)):
            pieces = [data[start : start + size] for start in range(0, len(data), size)]
            items, rest = items_of(pieces)
            self.assertEqual(len(items), 2)
            self.assertEqual(rest, foreign + get() + b"garbage")

    def test_which(self) -> None:
        """Requests for other paths, the root and reserved names in any encoding are handed over."""
        for target in (
            b"/",
            b"/v1/stream",
            b"/v1/stream/",
            b"/v1/stream?x",
            b"/v1/streams/s",
            b"/V1/stream/s",
            b"/v1/%73tream/s",
            b"/v1/stream/__ds",
            b"/v1/stream/__ds/subscriptions",
            b"/v1/stream/%5F_ds/x",
            b"/v1/stream/__ds%2Fx",
            b"http://a/health",
            b"http://a",
        ):
            items, _ = items_of([b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"])
            self.assertEqual(items, [Handover()], target)
        for target in (b"/v1/stream/__dsx", b"/v1/stream/a/__ds", b"/v1/stream/%", b"/v1/stream//"):
            items, _ = items_of([b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"])
            self.assertIsInstance(items[0], tuple, target)

    def test_size_is_none_of_ours(self) -> None:
        """The limit of bodies does not apply to requests that are not for streams."""
        head = b"POST /health HTTP/1.1\r\n" + HOST + b"Content-Length: 99999\r\n\r\n"
        self.assertEqual(items_of([head])[0], [Handover()])


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(
            (
                *(b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\0", b"0", b"5", b"\xff", b",", b";"),
                *(b"x", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", HIDDEN, HOST),
            )
        ),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, mutations: list[tuple[str, float, bytes, int]]) -> bytes:
    """Draw requests with mutated bytes."""
    for kind, where, what, size in mutations:
        place = int(where * len(data))
        if kind == "replace":
            data = data[:place] + what + data[place + len(what) :]
        elif kind == "insert":
            data = data[:place] + what + data[place:]
        elif kind == "delete":
            data = data[:place] + data[place + size :]
        else:
            data = data[:place] + data[place : place + size] + data[place:]
    return data


class AnyBytesTests(SynchronousTestCase):
    """Malformed requests."""

    @given(SEQUENCES, MUTATIONS, st.data())
    def test_pieces_do_not_matter(
        self,
        sequence: list[Sent],
        mutations: list[tuple[str, float, bytes, int]],
        data: st.DataObject,
    ) -> None:
        """Bytes yield the same items in any pieces; a refusal is the last one."""
        damaged = mutated(b"".join([written for written, _ in sequence]), mutations)
        whole = items_of([damaged])
        self.assertEqual(items_of(data.draw(cut(damaged))), whole)
        self.assertEqual(items_of([damaged[i : i + 1] for i in range(len(damaged))]), whole)
        self.assertTrue(all(isinstance(item, tuple) for item in whole[0][:-1]))

    @given(SEQUENCES, MUTATIONS)
    def test_no_more_than_h11(
        self,
        sequence: list[Sent],
        mutations: list[tuple[str, float, bytes, int]],
    ) -> None:
        """Every parsed request is the one that h11 parses at that place."""
        damaged = mutated(b"".join([written for written, _ in sequence]), mutations)
        # h11 closes HTTP/1.0 connections.
        assume(b"HTTP/1.0" not in damaged)
        ours = [request_parts(request) for request in requests_of(items_of([damaged])[0])]
        theirs = [(one.method, one.target, one.body) for one in requests_of_h11(damaged)]
        # h11 treats an empty query as missing.
        trimmed = [(m, re.sub(rb"\A([^?]*)\?\Z", rb"\1", t), b) for m, t, b in theirs[: len(ours)]]
        self.assertEqual(ours, trimmed, damaged)

    @given(st.binary(max_size=200), st.data())
    def test_noise(self, noise: bytes, data: st.DataObject) -> None:
        """Random bytes are no request."""
        items, _ = items_of(data.draw(cut(noise)))
        self.assertEqual(requests_of(items), [])
