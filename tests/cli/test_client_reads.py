"""Tests of the selection of messages and lines by ``read`` and ``tail``."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.client_listing import changes, size_text
from durable_streams_tw.cli.client_options import base_url, with_scheme
from durable_streams_tw.cli.client_reads import first_items, last_items
from durable_streams_tw.cli.client_writes import json_document
from durable_streams_tw.cli.operators import selection
from durable_streams_tw.client.follow import Batch

_TRICKY = st.text(alphabet='a",[]{}\\ ', max_size=8)
_VALUES = st.recursive(
    _TRICKY | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TRICKY, inner, max_size=3),
    max_leaves=6,
)


class LastItemsTests(SynchronousTestCase):
    """The last messages and lines of stored bytes."""

    @given(st.lists(_VALUES, max_size=8), st.integers(0, 9), st.data())
    def test_messages(self, values: list[Any], count: int, data: st.DataObject) -> None:
        """Bytes cut anywhere give the last messages, or None if they have too few."""
        stored = b"".join(json.dumps(value).encode() + b"," for value in values)
        cut = data.draw(st.integers(0, len(stored)))
        expected = values[-count:] if count else []
        whole = last_items(stored, count, is_json=True, is_whole=True)
        assert whole is not None
        self.assertEqual(json.loads(whole), expected)
        found = last_items(stored[cut:], count, is_json=True, is_whole=False)
        if found is not None:
            self.assertEqual(json.loads(found), expected)

    @given(st.lists(st.binary(max_size=5), max_size=8), st.integers(0, 9), st.data())
    def test_lines(self, lines: list[bytes], count: int, data: st.DataObject) -> None:
        """Lines are those of the whole stream, or None."""
        stored = b"\n".join(lines)
        expected = b"".join(stored.splitlines(keepends=True)[-count:]) if count else b""
        if b"\r" in stored or b"\x0b" in stored or b"\x0c" in stored or b"\x1c" in stored:
            return
        self.assertEqual(last_items(stored, count, is_json=False, is_whole=True), expected)
        cut = data.draw(st.integers(0, len(stored)))
        found = last_items(stored[cut:], count, is_json=False, is_whole=False)
        self.assertIn(found, (None, expected))


class FirstItemsTests(SynchronousTestCase):
    """The first messages and lines of a batch."""

    def test_first(self) -> None:
        """A batch is cut after a number of messages or lines; without a limit it is unchanged."""
        batch = Batch("application/json", b"[1,[2],3]", "x", True, False)
        cut, used = first_items(batch, 2)
        self.assertEqual((cut.data, used), (b"[1,[2]]", 2))
        lines = Batch("text/plain", b"a\nb\nc", "x", True, False)
        self.assertEqual(first_items(lines, 2)[0].data, b"a\nb\n")
        cut, used = first_items(lines, 9)
        self.assertEqual((cut.data, used), (b"a\nb\nc", 2))
        self.assertIs(first_items(lines, None)[0], lines)


class InputTests(SynchronousTestCase):
    """Names, URLs, and bodies as users write them."""

    def test_urls(self) -> None:
        """A scheme and the default path are added where they are missing."""
        for text, expected in (
            ("localhost:4437", "http://localhost:4437/v1/stream/"),
            ("https://h.example", "https://h.example/v1/stream/"),
            ("https://h.example/", "https://h.example/"),
            ("h.example/streams", "http://h.example/streams"),
        ):
            self.assertEqual(base_url(text), expected)
        for name, expected in (
            ("localhost:4437/v1/stream/a", "http://localhost:4437/v1/stream/a"),
            ("[::1]:80/a", "http://[::1]:80/a"),
            ("jobs/a:1", "jobs/a:1"),
            ("https://h/a", "https://h/a"),
        ):
            self.assertEqual(with_scheme(name), expected)

    def test_json_lines(self) -> None:
        """Lines of messages become an array; other input is unchanged."""
        for data, expected in (
            (b'{"a": 1}\n\n[2]\n', b'[{"a": 1},[2]]'),
            (b'{"a":\n1}', b'{"a":\n1}'),
            (b"[1,\n2]", b"[1,\n2]"),
            (b"1\nno\n", b"1\nno\n"),
            (b"1\n", b"1\n"),
        ):
            self.assertEqual(json_document(data), expected)

    def test_patterns(self) -> None:
        """A pattern has a prefix to ask the server for, and a test."""
        for pattern, prefix, matching, other in (
            ("jobs/*", "jobs/", "jobs/a/b", "job"),
            ("a?c", "a", "abc", "abbc"),
            ("logs", "logs", "logs/x", None),
        ):
            found, matches = selection(pattern)
            self.assertEqual(found, prefix)
            self.assertTrue(matches(matching))
            if other is not None:
                self.assertFalse(matches(other))


class ListingTests(SynchronousTestCase):
    """Changes between two lists, and sizes."""

    def test_changes(self) -> None:
        """Creation, append, close and deletion are found; the first list gives none."""

        def stream(path: str, offset: int, closed: bool = False, at: str = "1") -> dict[str, Any]:
            return {"path": path, "next_offset": offset, "closed": closed, "created_at": at}

        before = [stream("a", 1), stream("b", 1), stream("c", 1), stream("d", 1)]
        after = [stream("a", 2), stream("b", 1, True), stream("d", 1, at="2"), stream("e", 0)]
        known = {one["path"]: one for one in before}
        current = {one["path"]: one for one in after}
        self.assertEqual(changes(None, current), [])
        self.assertEqual(
            [(change, one["path"]) for change, one in changes(known, current)],
            [
                ("deleted", "c"),
                ("appended", "a"),
                ("closed", "b"),
                ("created", "d"),
                ("created", "e"),
            ],
        )

    def test_sizes(self) -> None:
        """Sizes have a unit."""
        for size, text in ((0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")):
            self.assertEqual(size_text(size), text)
