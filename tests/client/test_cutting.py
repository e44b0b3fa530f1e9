"""Tests of the cutters of `durable_streams_tw.client.messages`: long bodies in pieces."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.client import messages
from durable_streams_tw.client.errors import BadResponse
from durable_streams_tw.client.messages import ArrayCutter, BytesCutter

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('a",[]{}\\\\\n'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


class CutterCase(SynchronousTestCase):
    """Test case with small pieces."""

    def setUp(self) -> None:
        self.patch(messages, "PIECE", 20)

    def fed(self, cutter: BytesCutter | ArrayCutter, body: bytes, size: int) -> list[bytes]:
        """Return the runs of a body that arrives in pieces of a size; none is empty."""
        found = []
        for start in range(0, len(body), size):
            run, count = cutter.feed(body[start : start + size])
            self.assertEqual(bool(run), bool(count))
            if isinstance(cutter, ArrayCutter) and count:
                self.assertEqual(len(messages.messages(run)), count)
            if count:
                found.append(run)
        return [*found, cutter.finish()]


class ArrayCutterTests(CutterCase):
    """Arrays of JSON."""

    @given(st.lists(VALUES, max_size=9), st.integers(1, 60), st.data(), st.sampled_from([None, 1]))
    def test_all(self, values: list[Any], size: int, data: Any, indent: int | None) -> None:
        """Every element from the first that is not skipped is returned once."""
        body = json.dumps(values, indent=indent).encode()
        skip = data.draw(st.integers(0, len(values)))
        runs = self.fed(ArrayCutter(skip), body, size)
        self.assertEqual([value for run in runs for value in json.loads(run)], values[skip:])

    def test_memory(self) -> None:
        """Returned elements are not kept in memory."""
        elements = (b'{"a":[1,{"b":2},3]}', b'"x"', b"[[],[1,2]]", b"12", b'[{"a":1},{"b":2}]')
        for element in elements:
            cutter = ArrayCutter(0)
            cutter.feed(b"[")
            for _ in range(1000):
                cutter.feed(element + b",")
                self.assertLess(len(cutter._buffer), 200)

    def test_no_array(self) -> None:
        """A body that is no array, or ends early or late, is refused."""
        for body in (b"x" * 50, b'{"a":"' + b"x" * 50 + b'"}', b"[" + b"1," * 50, b"[1] " * 20):
            self.assertRaises(BadResponse, self.fed, ArrayCutter(0), body, 10)

    def test_shorter_than_before(self) -> None:
        """An array with fewer elements than are to be skipped is refused."""
        for body in (b"[]", b"[1,2]", b"[" + b"1," * 50 + b"1]"):
            self.assertRaises(BadResponse, self.fed, ArrayCutter(60), body, 10)


class BytesCutterTests(CutterCase):
    """Bytes."""

    @given(st.binary(max_size=200), st.integers(1, 60), st.data())
    def test_all(self, body: bytes, size: int, data: Any) -> None:
        """Every byte from the first that is not skipped is returned once."""
        skip = data.draw(st.integers(0, len(body)))
        self.assertEqual(b"".join(self.fed(BytesCutter(skip), body, size)), body[skip:])

    def test_shorter_than_before(self) -> None:
        """A body shorter than the bytes to be skipped is refused."""
        self.assertRaises(BadResponse, self.fed, BytesCutter(11), b"x" * 10, 3)
