"""Tests of `durable_streams_tw.protocol.streams.bodies`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.json_mode import document, split
from durable_streams_tw.protocol.limits import MAX_JSON_MESSAGES, MAX_UNDIVIDED_BODY
from durable_streams_tw.protocol.streams import bodies
from tests.protocol.refusal_case import RefusalTestCase

JSON = "application/json; charset=utf-8"
OTHERS = ("text/plain", "application/octet-stream", "application/ndjson")


class InitialTests(RefusalTestCase):
    """Bodies of PUT."""

    def test_empty(self) -> None:
        """An empty body, or an empty array in JSON mode, creates an empty stream (§9.1.3)."""
        for content_type, raw in (
            ("text/plain", b""),
            (JSON, b""),
            (JSON, b"[]"),
            (JSON, b" [\n] "),
        ):
            self.assertEqual(bodies.initial(content_type, raw), bodies.EMPTY)

    def test_json(self) -> None:
        """JSON messages are stored each with a comma after it."""
        self.assertEqual(bodies.initial(JSON, b"[1.0, [2]]").data, b"1.0,[2],")
        self.assertEqual(bodies.initial(JSON, b' {"a":1}\n').data, b'{"a":1},')

    def test_bytes(self) -> None:
        """Bodies that are not JSON are stored unchanged."""
        for content_type in OTHERS:
            for raw in (b"[]", b"[1", b"\xff\0", b" "):
                self.assertEqual(bodies.initial(content_type, raw), bodies.Body(raw))

    def test_problems(self) -> None:
        """A body that cannot be stored has a problem and no bytes."""
        for raw, problem in (
            (b"{", Problem.INVALID_JSON),
            (b" ", Problem.INVALID_JSON),
            (b"[" + b"1," * MAX_JSON_MESSAGES + b"1]", Problem.TOO_MANY_MESSAGES),
        ):
            for make in (bodies.initial, bodies.appended):
                body = make(JSON, raw)
                self.assertRefusal(problem, body.problem)
                self.assertEqual((body.data, body.cuts), (b"", ()))


class AppendedTests(RefusalTestCase):
    """Bodies of POST."""

    def test_an_empty_array(self) -> None:
        """An empty array is refused (PROTOCOL.md §9.1.3)."""
        for raw in (b"[]", b" [ \r\n] "):
            self.assertRefusal(Problem.INVALID_JSON, bodies.appended(JSON, raw).problem)
        self.assertEqual(bodies.appended(JSON, b"[[]]").data, b"[],")

    def test_json(self) -> None:
        """JSON messages are stored each with a comma after it."""
        self.assertEqual(bodies.appended("Application/JSON", b"[1,2]").data, b"1,2,")

    def test_bytes(self) -> None:
        """Bodies of other types, or without a type, are stored unchanged; the stream checks the
        type.
        """
        for content_type in (None, *OTHERS):
            self.assertEqual(bodies.appended(content_type, b"[]"), bodies.Body(b"[]"))


class CutsTests(RefusalTestCase):
    """Cuts of a large JSON body, where a store may split it."""

    def test_small_bodies_have_none(self) -> None:
        """A small body has no cuts; the last cut of a larger one is its end."""
        largest = b'"' + b"a" * (MAX_UNDIVIDED_BODY - 3) + b'"'
        self.assertEqual(bodies.appended(JSON, largest).cuts, ())
        self.assertEqual(len(bodies.appended(JSON, largest).data), MAX_UNDIVIDED_BODY)
        larger = largest[:-1] + b'a"'
        self.assertEqual(bodies.appended(JSON, larger).cuts, (MAX_UNDIVIDED_BODY + 1,))

    def test_bytes_have_none(self) -> None:
        """Bodies of other types have no cuts."""
        self.assertEqual(bodies.appended("text/plain", b"a" * 100_000).cuts, ())

    @given(st.lists(st.integers(0, 9000), min_size=2, max_size=8))
    def test_cuts_are_message_ends(self, sizes: list[int]) -> None:
        """Each cut is the end of a message, and each message has a cut."""
        messages = [b'"' + b"a," * (size // 2) + b'"' for size in sizes]
        body = bodies.appended(JSON, b"[" + b",".join(messages) + b"]")
        self.assertEqual(split(document(body.data)), tuple(messages))
        if len(body.data) <= MAX_UNDIVIDED_BODY:
            self.assertEqual(body.cuts, ())
            return
        found = []
        start = 0
        for cut in body.cuts:
            found.append(body.data[start:cut])
            start = cut
        self.assertEqual(found, [message + b"," for message in messages])
        self.assertEqual(start, len(body.data))
