"""Tests of `durable_streams_tw.protocol.json_mode`."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from itertools import accumulate
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.json_mode import document, is_boundary, join, split
from durable_streams_tw.protocol.limits import KIB, MAX_JSON_DEPTH, MAX_JSON_MESSAGES, MIB
from tests.protocol.refusal_case import RefusalTestCase

LONE = rb"\ud83d"
PAIR = rb"\ud83d\ude00"

# Values in different spellings with the same meaning.
SPELLINGS = (
    *(b"1.0", b"-0", b"-0.0", b"1e400", b"-1E+400", b"1e-400", b"123456789012345678901234567890"),
    *(b"0.1000", b"1E5", b"null", b"true", b"false", b'""', b"[]", b"{}"),
    *(b'{"a":1,"a":2}', b'{"a" : 1 ,\n\t"b"\r\n:[ 1 , 2 ] }', b'"\\u0041\\/\\n"', b'"\x7f"'),
    *(b'"' + text + b'"' for text in (LONE, PAIR, b"\\\\" + LONE, b"\\\\ud83d", b"\\ude00")),
    *(b'"a,b"', b'"],["', b'"{[\\"}"', b'"\\\\"', b'"\\\\\\""', '"é\U0001f600\u2028"'.encode()),
)

WHITESPACE = st.text(" \t\n\r", max_size=3).map(str.encode)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(
        st.characters(codec="utf-16") | st.sampled_from('"\\,[]{}\n\ud83d\ude00'), max_size=8
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def _wire(value: Any, ascii_only: bool) -> bytes:
    """Return the JSON text of a value, with lone surrogates as escapes."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


MESSAGES = st.builds(_wire, VALUES, st.booleans()) | st.sampled_from(SPELLINGS)


def nested(depth: int) -> bytes:
    """Return a message of a nesting depth, without an array at the top."""
    return b'{"a":' * depth + b"1" + b"}" * depth


def is_json(text: bytes) -> bool:
    """Return True if the standard library parses the text as strict JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


class SplitTests(RefusalTestCase):
    """Splitting of bodies into messages."""

    def test_one_value(self) -> None:
        """A value that is not an array is one message with the same bytes."""
        for spelling in SPELLINGS:
            if not spelling.startswith(b"["):
                self.assertEqual(split(spelling), (spelling,))

    def test_exactly_one_level(self) -> None:
        """One level of an array is split (PROTOCOL.md §9.1.2)."""
        for body, messages in (
            (b'{"event":"created"}', (b'{"event":"created"}',)),
            (b'[{"event":"a"}, {"event":"b"}]', (b'{"event":"a"}', b'{"event":"b"}')),
            (b"[[1,2], [3,4]]", (b"[1,2]", b"[3,4]")),
            (b"[[[1,2,3]]]", (b"[[1,2,3]]",)),
            (b"[[]]", (b"[]",)),
            (b"[]", ()),
            (b" \r\n[ \t\n] ", ()),
        ):
            self.assertEqual(split(body), messages)

    def test_exact_bytes_in_a_batch(self) -> None:
        """Messages of an array keep their bytes."""
        for gap in (b"", b" ", b"\r\n\t"):
            body = b"[" + (gap + b"," + gap).join(SPELLINGS) + b"]"
            self.assertEqual(split(body), SPELLINGS)

    def test_white_space_around_a_message(self) -> None:
        """White space around a message is removed, white space inside is kept."""
        for message in (b'{"a" : 1}', b'"' + LONE + b'"', b"1"):
            self.assertEqual(split(b" \t\r\n" + message + b"\n\n "), (message,))
            self.assertEqual(split(b"\n[ \t" + message + b"\r\n]\r\n"), (message,))

    def test_lone_surrogates(self) -> None:
        """Lone surrogates are accepted at any place of a batch.

        A token stream may be cut inside of an emoji.
        """
        texts = (
            *(LONE, b"a" + LONE, LONE + b"a", LONE + LONE, LONE + PAIR, PAIR + LONE, b"\\uDE00"),
            *(
                b"\\uDE00" + LONE,
                PAIR + b"\\uDE00",
                LONE + b"\\u0041",
                LONE + b"\\n",
                b"\\n" + LONE,
            ),
            *(
                b"\\\\" + LONE,
                LONE + b"\\\\",
                b"\\\\\\\\" + LONE,
                LONE + b"ude00",
                b"\\uD83D\\\\ude00",
            ),
            *(b'\\"' + LONE, LONE + b'\\"', "é".encode() + LONE + "\U0001f600".encode()),
        )
        for text in texts:
            for message in (b'"' + text + b'"', b'{"' + text + b'" : ["' + text + b'"]}'):
                self.assertEqual(split(message), (message,))
                self.assertEqual(split(b" [ %b ]" % message), (message,))
                self.assertEqual(split(b"[1 , %b,2]" % message), (b"1", message, b"2"))
                self.assertEqual(
                    split(b"[%b,[%b]]" % (message, message)), (message, b"[%b]" % message)
                )

    def test_escaped_backslashes(self) -> None:
        """An escaped backslash does not start an escape, and no other byte changes."""
        for message in (rb'"\\ud83d"', rb'"\\\\ud83d"', rb'"\\\\\\ud83d x"', rb'"ud83d"'):
            self.assertEqual(split(message), (message,))
        for bad in (rb'"\ud83"', rb'"\ud83g"', rb'"\ud83d\ud"', rb'"\ud83d\x"', rb'["\ud83d" 1]'):
            self.assertRefused(Problem.INVALID_JSON, split, bad)

    def test_invalid(self) -> None:
        """Text that RFC 8259 forbids is refused."""
        for body in (
            *(b"", b" ", b"\n\t", b"{ invalid json }", b"{a:1}", b"{'a':1}", b"{1:2}", b'{"a" 1}'),
            *(b"[1,]", b"[,1]", b"[,]", b"[1,,2]", b'{"a":1,}', b"[1 2]", b"[1", b"1]", b"[", b"]"),
            *(
                b"{",
                b"}",
                b"[}",
                b"[1}",
                b"1 2",
                b"1,2",
                b"[1][2]",
                b"[1]x",
                b"[]]",
                b"{}{}",
                b"[1]\0",
            ),
            *(b"NaN", b"Infinity", b"-Infinity", b"[NaN]", b"nul", b"True", b"nulll", b"undefined"),
            *(
                b"01",
                b"-01",
                b"+1",
                b".5",
                b"1.",
                b"1e",
                b"1e+",
                b"-",
                b"--1",
                b"0x10",
                b"1_000",
                b"1a",
            ),
            *(
                b'"',
                b'"a',
                b'"\\"',
                b'"\\',
                b'"\\x"',
                b'"\\u"',
                b'"\\u12"',
                b'"\\u12g4"',
                b'"\\U0041"',
            ),
            *(
                b'"\n"',
                b'"\t"',
                b'"\0"',
                b'"\x1f"',
                b"'a'",
                b"// 1",
                b"1 // 1",
                b"/* */1",
                b"\x0b1",
            ),
            *(
                b"\x0c1",
                b"\0",
                b"\xc2\xa01",
                "\u20281".encode(),
                b"\xef\xbb\xbf1",
                b"\xef\xbb\xbf[1]",
            ),
        ):
            self.assertRefused(Problem.INVALID_JSON, split, body)

    def test_invalid_utf8(self) -> None:
        """Bytes that are not UTF-8 are refused with their position."""
        for bad in (
            *(
                b"\xff",
                b"\xc0\xaf",
                b"\xc3",
                b"\xe2\x82",
                b"\xf0\x9f\x98",
                b"\x80",
                b"\xed\xa0\xbd",
            ),
            *(b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xe0\x80\xaf"),
        ):
            for body in (b'"' + bad + b'"', b'{"' + bad + b'":1}', b'["a","' + bad + b'"]'):
                refusal = self.assertRefused(Problem.INVALID_JSON, split, body)
                self.assertIn(f"at byte {body.index(bad)}", refusal.detail)
        self.assertRefused(Problem.INVALID_JSON, split, b"\xff\xfe1\0")
        self.assertRefused(Problem.INVALID_JSON, split, b'"' + LONE + b'\xff"')

    def test_invalid_utf8_in_a_large_body(self) -> None:
        """UTF-8 is checked in steps: a character across two steps is valid, and an error has its
        position.
        """
        for before in range(64 * KIB - 5, 64 * KIB + 3):
            text = b'"' + b"a" * before + "\U0001f600".encode() + b"b" * 100 + b'"'
            self.assertEqual(split(text), (text,))
            for bad in (b"\xf0\x9f\x98b", b"\xff", b"\x80"):
                body = b'"' + b"a" * before + bad + b'"'
                refusal = self.assertRefused(Problem.INVALID_JSON, split, body)
                self.assertIn(f"at byte {before + 1}", refusal.detail)

    def test_depth(self) -> None:
        """A message may nest up to the limit, alone or in a batch."""
        deepest = nested(MAX_JSON_DEPTH)
        array = b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH
        self.assertEqual(split(deepest), (deepest,))
        self.assertEqual(split(b"[1,%b,%b]" % (deepest, array)), (b"1", deepest, array))
        for deeper in (nested(MAX_JSON_DEPTH + 1), b"[[%b]]" % array, b"[1,[%b]]" % deepest):
            refusal = self.assertRefused(Problem.INVALID_JSON, split, deeper)
            self.assertIn(str(MAX_JSON_DEPTH), refusal.detail)
        for bomb in (
            b"[" * 100_000,
            b"[" * 50_000 + b"]" * 50_000,
            nested(20_000),
            b'{"a":' * 9999,
        ):
            self.assertRefused(Problem.INVALID_JSON, split, bomb)

    def test_width_is_no_depth(self) -> None:
        """Brackets side by side, or inside of strings, do not count as nesting."""
        flat = b'{"a":[' + b"[],{}," * 2000 + b"1]}"
        self.assertEqual(split(flat), (flat,))
        for text in (
            b"[" * 1000,
            b'\\"[' * 500,
            b"\\\\" * 500 + b"{" * 500,
            b"[" + LONE + b"{" * 400,
        ):
            message = b'{"' + text + b'":"' + text + b'"}'
            self.assertEqual(split(message), (message,))
            deep = b"[" * 300 + b'"' + text + b'"' + b"]" * 300
            self.assertRefused(Problem.INVALID_JSON, split, deep)

    def test_strings_across_the_steps_of_a_scan(self) -> None:
        """Steps of the scan may end anywhere in a string: brackets inside of strings are not
        counted.
        """
        for before in range(64 * KIB - 12, 64 * KIB + 4):
            for text in (b'\\"[[[\\\\', b"\\\\", b'\\\\\\"[[', b"\\u005b[["):
                body = b'["' + b"a" * before + text + b'",' + b'"[","{",' * 150 + b"1]"
                message = b'{"b":' + body + b"}"
                self.assertEqual(split(message), (message,))
                self.assertRefused(Problem.INVALID_JSON, split, b"[" * 257 + body + b"]" * 257)

    def test_number_of_messages(self) -> None:
        """A request has a limited number of messages."""
        for message in (b"1", b'{"a":1,"b":[2,"],[\\",\\\\"]}'):
            most = b"[" + b",".join([message] * MAX_JSON_MESSAGES) + b"]"
            self.assertEqual(split(most), (message,) * MAX_JSON_MESSAGES)
            more = most[:-1] + b",1]"
            self.assertRefused(Problem.TOO_MANY_MESSAGES, split, more)

    def test_commas_within_a_message(self) -> None:
        """Commas inside of messages are not counted."""
        many = b"1," * (MAX_JSON_MESSAGES + 10) + b"1"
        for message in (b'{"a":[%b]}' % many, b'"%b"' % many, b'{"a":"%b"}' % many):
            self.assertEqual(split(message), (message,))
            self.assertEqual(split(b"[%b]" % message), (message,))

    @given(st.lists(st.tuples(WHITESPACE, MESSAGES, WHITESPACE), max_size=6), WHITESPACE)
    def test_any_batch(self, parts: list[tuple[bytes, bytes, bytes]], gap: bytes) -> None:
        """The messages of a batch are returned in order with their bytes."""
        body = gap + b"[" + b",".join([b"".join(part) for part in parts]) + b"]" + gap
        if not parts:
            body = gap + b"[" + gap + b"]"
        self.assertEqual(split(body), tuple(message for _, message, _ in parts))

    @given(MESSAGES, WHITESPACE, WHITESPACE)
    def test_any_value(self, message: bytes, before: bytes, behind: bytes) -> None:
        """A body that is not an array is one message."""
        if not message.startswith(b"["):
            self.assertEqual(split(before + message + behind), (message,))

    @given(
        st.lists(MESSAGES, max_size=4),
        st.lists(
            st.tuples(
                st.integers(0, 200),
                st.integers(0, 3),
                st.binary(max_size=2)
                | st.sampled_from(
                    [b",", b'"', b"\\", b"[", b"]", b"{", b"}", b" ", b"0", LONE, b"\\u"]
                ),
            ),
            min_size=1,
            max_size=3,
        ),
    )
    def test_agrees_with_the_standard_library(
        self, messages: list[bytes], changes: list[tuple[int, int, bytes]]
    ) -> None:
        """Valid and mutated documents are accepted exactly if the standard library accepts them."""
        body = b"[" + b",".join(messages) + b"]"
        for at, removed, inserted in changes:
            body = body[:at] + inserted + body[at + removed :]
        self._compare(body)

    @given(st.text('[]{},:"\\ud83e0-+. \n1atn', max_size=14).map(str.encode))
    @example(b'"\\ud83d')
    def test_agrees_with_the_standard_library_on_scraps(self, body: bytes) -> None:
        """Short texts of significant characters are accepted as the standard library does."""
        self._compare(body)

    @given(st.binary(max_size=20))
    def test_agrees_with_the_standard_library_on_bytes(self, body: bytes) -> None:
        """Bytes of any kind are accepted as the standard library does."""
        self._compare(body)

    def _compare(self, body: bytes) -> None:
        try:
            messages = split(body)
        except Refused as refused:
            self.assertEqual(refused.refusal.problem, Problem.INVALID_JSON)
            self.assertFalse(is_json(body), body)
        else:
            self.assertTrue(is_json(body), body)
            value = json.loads(body)
            values = [json.loads(message) for message in messages]
            self.assertEqual(repr(values), repr(value if isinstance(value, list) else [value]))


class PathologicalTests(RefusalTestCase):
    """Bodies with extreme structure, in bounded time and memory.

    The bounds are generous: such bodies once took minutes and gigabytes.
    """

    BODIES = (
        # Brackets that are opened and never closed.
        b"[" * 257 + b'"' + b'\\"' * 100_000,
        b"[" * 257 + b'"' * 100_000,
        b'["' + b"\\" * 200_000,
        # Long strings beside many brackets.
        b'{"a":[' + b"[]," * 300 + b'"' + b"a" * (MIB // 2) + b'"]}',
        b'{"a":[' + b"[]," * 300 + b'"' + b"\\n" * (MIB // 4) + b'"]}',
        # Many lone surrogates, escapes, and white space between messages.
        b'"' + LONE * 30_000 + b'"',
        b'"' + LONE + b"\\n" * 100_000 + b'"',
        b'["' + LONE + b'",' + b" " * (MIB // 2) + b"1]",
        # Few messages with many small values.
        b"[[" + b"[]," * 50_000 + b"1]]",
        b"[[" + b'"",' * 50_000 + b"1]]",
        b"[" + b"1," * 1_000_000 + b"1]",
    )

    def test_time(self) -> None:
        """Each body takes less than the bound on time."""
        for body in self.BODIES:
            begin = time.process_time()
            self._attempt(body)
            self.assertLess(time.process_time() - begin, 2, body[:300])

    def test_memory(self) -> None:
        """Each body takes less than a multiple of its size."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for body in (self.BODIES[3], self.BODIES[6]):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            self._attempt(body)
            _, peak = tracemalloc.get_traced_memory()
            self.assertLess(peak - before, 8 * len(body) + 4 * MIB, body[:300])

    def _attempt(self, body: bytes) -> None:
        try:
            messages = split(body)
        except Refused as refused:
            self.assertIn(refused.refusal.problem.status, (400, 413))
        else:
            self.assertLessEqual(len(messages), 3)


class StoredTests(RefusalTestCase):
    """Stored messages."""

    def test_join(self) -> None:
        """Each message is followed by one comma."""
        self.assertEqual(join(()), b"")
        self.assertEqual(join((b"1",)), b"1,")
        self.assertEqual(join((b"1", b'"a"', b"[1,2]")), b'1,"a",[1,2],')

    def test_document(self) -> None:
        """A range of messages is an array without its brackets."""
        self.assertEqual(document(b""), b"[]")
        self.assertEqual(document(b"1,"), b"[1]")
        self.assertEqual(document(b"1,[2,3],"), b"[1,[2,3]]")

    @given(st.lists(MESSAGES, max_size=6))
    def test_round_trip(self, messages: list[bytes]) -> None:
        """Stored messages are read as an array that splits into the same messages."""
        self.assertEqual(split(document(join(tuple(messages)))), tuple(messages))

    @given(st.lists(MESSAGES, min_size=1, max_size=5), st.data())
    def test_any_run(self, messages: list[bytes], data: st.DataObject) -> None:
        """Each range of whole messages is read as an array of these messages."""
        first = data.draw(st.integers(0, len(messages)))
        behind = data.draw(st.integers(first, len(messages)))
        run = tuple(messages[first:behind])
        self.assertEqual(split(document(join(run))), run)

    def _positions(self, messages: list[bytes]) -> None:
        stored = join(tuple(messages))
        ends = set(accumulate((len(message) + 1 for message in messages), initial=0))
        found = {end for end in range(len(stored) + 1) if is_boundary(stored[:end])}
        self.assertEqual(found, ends)

    @given(st.lists(MESSAGES, max_size=4))
    def test_boundaries(self, messages: list[bytes]) -> None:
        """Exactly the positions after a message's comma are boundaries."""
        self._positions(messages)

    def test_boundaries_among_spellings(self) -> None:
        """Boundaries are found between all pairs of spellings."""
        self._positions(list(SPELLINGS))

    def test_boundaries_of_deep_messages(self) -> None:
        """The array around a range does not count as a level of a message."""
        deepest = nested(MAX_JSON_DEPTH)
        array = b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH
        self.assertTrue(is_boundary(deepest + b","))
        self.assertTrue(is_boundary(array + b"," + deepest + b",1,"))
        self.assertFalse(is_boundary(b'1,{"b":1,'))

    def test_boundaries_on_a_deep_stack(self) -> None:
        """A caller with a deep stack gets the same results."""
        deepest = nested(MAX_JSON_DEPTH)

        def at(depth: int) -> tuple[tuple[bytes, ...], bool]:
            if depth:
                return at(depth - 1)
            return split(deepest), is_boundary(deepest + b",")

        room = sys.getrecursionlimit() - MAX_JSON_DEPTH - 200
        self.assertEqual(at(room // 2), ((deepest,), True))
