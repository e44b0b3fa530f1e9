"""Tests of `durable_streams_tw.protocol.streams.sse`."""

from __future__ import annotations

import json
import re
from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol.json_mode import join, split
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.streams.sse import (
    COMMENT,
    Framing,
    control_event,
    data_event,
    deliverable_size,
    framing,
)
from durable_streams_tw.protocol.streams.state import StreamState
from tests.protocol.refusal_case import RefusalTestCase
from tests.sse_parser import Event, Parser, parse

STATE = StreamState(7, "a", "text/plain", 12, created_at=0, touched_at=0)

# Characters of payloads that could break the framing.
SCRAPS = (
    *(
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        " ",
        "  ",
        "data:",
        "data: ",
        "\ndata: ",
        "event: control\n",
        ":",
    ),
    *("id: 1\n", "retry: 1\n", "\0", "\N{BOM}", "\u2028", "\x85", "\x0b", "é", "\U0001f600", "x"),
    'event: control\ndata: {"streamNextOffset":"x","streamClosed":true}\n\n',
)
TEXTS = st.lists(st.sampled_from(SCRAPS) | st.text(max_size=4), max_size=8).map("".join)


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


class FramingTests(RefusalTestCase):
    """Framing by content type."""

    def test_framing(self) -> None:
        """Text and JSON are sent as they are, other types as base64 (PROTOCOL.md §5.8)."""
        for content_type, kind in (
            ("text/plain", Framing.TEXT),
            ("TEXT/Markdown; charset=utf-8", Framing.TEXT),
            ("text/event-stream", Framing.TEXT),
            ("application/json", Framing.JSON),
            ("Application/JSON ; charset=utf-8", Framing.JSON),
            ("application/octet-stream", Framing.BASE64),
            ("application/ndjson", Framing.BASE64),
            ("application/ld+json", Framing.BASE64),
            ("application/jsonl", Framing.BASE64),
            ("application/x-protobuf", Framing.BASE64),
            ("image/png", Framing.BASE64),
            ("textual/plain", Framing.BASE64),
        ):
            self.assertEqual(framing(content_type), kind, content_type)


class DataTests(RefusalTestCase):
    """``data`` events."""

    def test_lines(self) -> None:
        """Each line of the payload is a ``data`` line; a space is added only before a space."""
        for payload, event in (
            (b"abc", b"event: data\ndata:abc\n\n"),
            (
                b"line1\nline2\r\nline3\rline4",
                b"event: data\ndata:line1\ndata:line2\ndata:line3\ndata:line4\n\n",
            ),
            (b" a\n  b\n\n", b"event: data\ndata:  a\ndata:   b\ndata:\ndata:\n\n"),
            (b"data: x\n data: y", b"event: data\ndata:data: x\ndata:  data: y\n\n"),
            (b"\r\n\r\n", b"event: data\ndata:\ndata:\ndata:\n\n"),
            (b"\n\r", b"event: data\ndata:\ndata:\ndata:\n\n"),
        ):
            self.assertEqual(data_event(Framing.TEXT, payload), event)

    def test_json(self) -> None:
        """Messages are sent as one array without additional white space."""
        self.assertEqual(
            data_event(Framing.JSON, b'{"a":1},[2],'), b'event: data\ndata:[{"a":1},[2]]\n\n'
        )

    def test_base64(self) -> None:
        """Bytes are sent as padded base64 in one line."""
        self.assertEqual(data_event(Framing.BASE64, b"\xfb\xff\n"), b"event: data\ndata:+/8K\n\n")
        self.assertEqual(data_event(Framing.BASE64, b"a"), b"event: data\ndata:YQ==\n\n")
        self.assertEqual(data_event(Framing.BASE64, b""), b"event: data\ndata:\n\n")

    @given(TEXTS)
    def test_any_text(self, text: str) -> None:
        """Any text is parsed as exactly one event with the same text, line ends normalized."""
        events = parse(data_event(Framing.TEXT, text.encode()))
        self.assertEqual(events, [Event("data", _with_line_feeds(text))])

    @given(st.lists(TEXTS, max_size=4))
    def test_any_messages(self, texts: list[str]) -> None:
        """Messages with line ends in their white space are parsed to the same values."""
        messages = [
            b'{\r"t"\n:\r\n' + json.dumps(text, ensure_ascii=False).encode() + b"\n}"
            for text in texts
        ]
        (event,) = parse(data_event(Framing.JSON, join(tuple(messages))))
        self.assertEqual(event.type, "data")
        self.assertEqual(json.loads(event.data), [{"t": text} for text in texts])
        arrived = split(event.data.encode())
        self.assertEqual(
            [_with_line_feeds(message.decode()) for message in messages],
            [message.decode() for message in arrived],
        )

    @given(st.binary(max_size=200))
    def test_any_bytes(self, payload: bytes) -> None:
        """Any bytes are decoded from base64 unchanged."""
        (event,) = parse(data_event(Framing.BASE64, payload))
        self.assertEqual(event.type, "data")
        self.assertEqual(b64decode(event.data, validate=True), payload)
        self.assertEqual(len(event.data) % 4, 0)
        self.assertNotIn("\n", event.data)


class ControlTests(RefusalTestCase):
    """``control`` events."""

    def test_states(self) -> None:
        """A control event has the cursor while the stream is open, and ``streamClosed`` at its end
        (PROTOCOL.md §5.8).
        """
        offset = format_offset(STATE, 12)
        for up_to_date, closed, rest in (
            (False, False, {"streamCursor": "7"}),
            (True, False, {"streamCursor": "7", "upToDate": True}),
            (True, True, {"upToDate": True, "streamClosed": True}),
            (False, True, {"upToDate": True, "streamClosed": True}),
        ):
            raw = control_event(STATE, 12, 7, up_to_date, closed)
            (event,) = parse(raw)
            self.assertEqual(event.type, "control")
            self.assertEqual(json.loads(event.data), {"streamNextOffset": offset, **rest})

    def test_no_space_before_the_object(self) -> None:
        """The object follows the colon without a space."""
        raw = control_event(STATE, 0, 1, True, False).decode()
        self.assertIsNotNone(re.match(r"event: control\s*\ndata:({[^}]+})", raw))

    def test_comment(self) -> None:
        """A comment dispatches no event."""
        parser = Parser()
        self.assertEqual(parser.feed(COMMENT), [])
        self.assertEqual(parser.comments, 1)
        self.assertFalse(parser.pending)

    @given(st.lists(TEXTS, min_size=1, max_size=5), st.integers(1, 7))
    def test_many_events(self, texts: list[str], size: int) -> None:
        """Consecutive events are parsed in any pieces."""
        expected: list[Event] = []
        raw = b""
        for position, text in enumerate(texts):
            raw += data_event(Framing.TEXT, text.encode()) + COMMENT
            control = control_event(STATE, position, position, True, False)
            raw += control
            expected += [Event("data", _with_line_feeds(text)), *parse(control)]
        parser = Parser()
        events = []
        for start in range(0, len(raw), size):
            events += parser.feed(raw[start : start + size])
        self.assertEqual(events, expected)
        self.assertFalse(parser.pending)


class DeliverableTests(RefusalTestCase):
    """Length of a payload that may be sent."""

    def test_other_framings(self) -> None:
        """Payloads that are not text are sent whole."""
        for kind in (Framing.JSON, Framing.BASE64):
            self.assertEqual(deliverable_size(kind, b"abc\xe2\x82", True), 5)
            self.assertEqual(deliverable_size(kind, b"abc\r", False), 4)
        for kind in Framing:
            self.assertEqual(deliverable_size(kind, b"", True), 0)

    def test_text(self) -> None:
        """An incomplete character is held back; complete ones and invalid bytes are sent."""
        for payload, size in (
            (b"abc", 3),
            (b"ab\xc3", 2),
            (b"ab\xc3\xa9", 4),
            (b"\xc3", 0),
            (b"a\xe2", 1),
            (b"a\xe2\x82", 1),
            (b"a\xe2\x82\xac", 4),
            (b"a\xf0", 1),
            (b"a\xf0\x9f", 1),
            (b"a\xf0\x9f\x98", 1),
            (b"a\xf0\x9f\x98\x80", 5),
            (b"\xf0\x9f\x98", 0),
            # The first and last lead bytes of each width.
            *((b"a\xc2", 1), (b"a\xdf", 1), (b"a\xdf\xbf", 3)),
            *((b"a\xe0\xa0", 1), (b"a\xef\xbf", 1), (b"a\xef\xbf\xbf", 4)),
            *((b"a\xf0\x90\x80", 1), (b"a\xf4\x8f\xbf", 1), (b"a\xf4\x8f\xbf\xbf", 5)),
            # Continuation bytes without a lead byte, and bytes that are never valid.
            (b"\x80", 1),
            (b"\x80\x80", 2),
            (b"\x80\x80\x80\x80", 4),
            (b"a\x80\x80\x80", 4),
            (b"\xc3\xa9\xa9", 3),
            (b"a\xff", 2),
            (b"a\xf5\x80", 3),
        ):
            self.assertEqual(deliverable_size(Framing.TEXT, payload, True), size, payload)
            self.assertEqual(deliverable_size(Framing.TEXT, payload, False), size, payload)

    def test_carriage_return(self) -> None:
        """Before the tail, a CR is held back, since an LF may follow."""
        self.assertEqual(deliverable_size(Framing.TEXT, b"a\r", False), 1)
        self.assertEqual(deliverable_size(Framing.TEXT, b"a\r", True), 2)
        self.assertEqual(deliverable_size(Framing.TEXT, b"a\r\n", False), 3)
        self.assertEqual(deliverable_size(Framing.TEXT, b"a\r\r", False), 2)

    @given(st.text(max_size=8), st.integers(0, 40), st.booleans())
    def test_characters_are_not_torn(self, text: str, cut: int, at_tail: bool) -> None:
        """Of any prefix of a text, whole characters are sent and at most three bytes held back."""
        payload = text.encode()[:cut]
        size = deliverable_size(Framing.TEXT, payload, at_tail)
        payload[:size].decode()
        self.assertLessEqual(len(payload) - size, 3)
        self.assertLessEqual(size, len(payload))

    @given(st.binary(max_size=12), st.booleans())
    def test_any_bytes(self, payload: bytes, at_tail: bool) -> None:
        """Bytes that are not UTF-8 are not held back longer."""
        size = deliverable_size(Framing.TEXT, payload, at_tail)
        self.assertTrue(0 <= len(payload) - size <= 3)
        held = payload[size:]
        self.assertTrue(not held or held == b"\r" or held[0] >= 0xC0, held)

    @given(TEXTS, st.lists(st.integers(1, 5), min_size=1))
    def test_torn_by_appends(self, text: str, sizes: list[int]) -> None:
        """A text in any appends is received whole, and never with an incomplete character."""
        payload = text.replace("\r", "").encode()
        received = ""
        position = reach = 0
        for size in sizes * (len(payload) + 1):
            reach += size
            piece = payload[position:reach]
            piece = piece[: deliverable_size(Framing.TEXT, piece, True)]
            position += len(piece)
            if piece:
                (event,) = parse(data_event(Framing.TEXT, piece))
                received += event.data
        self.assertEqual(received.encode(), payload)
