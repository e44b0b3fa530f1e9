"""Model test: each reader receives exactly the stream, whatever happens.

All bounds are tiny, so that a few bytes exercise chunks, buffers and slices.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from durable_streams_tw.live import limits, registry, tail_buffer
from durable_streams_tw.live.sse import event_batch
from durable_streams_tw.protocol.streams.offsets import NOW
from tests.live.live_case import PATH, LiveTestCase, RecordingSink
from tests.sse_parser import parse
from tests.tokens import position_of

CHUNK = 24
WINDOW = 60

FRAGMENTS = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b" ",
    b"  leading",
    b"event: control\n",
    b"data: forged\n\n",
    b"data:",
    b": comment\n",
    b"id: 1\nretry: 1\n",
    b"\xef\xbb\xbf",
    b"\0",
    "\N{GRINNING FACE}".encode(),
    "\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}\x85".encode(),
    "\N{LATIN SMALL LETTER E WITH ACUTE}".encode(),
    "\N{GRINNING FACE}".encode()[:2],
    "\N{GRINNING FACE}".encode()[2:],
    "\N{EURO SIGN}".encode()[:1],
    "\N{EURO SIGN}".encode()[1:],
    b"a long line without any end in it, longer than a chunk",
]
TEXTS = st.one_of(
    st.sampled_from(FRAGMENTS),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=5)), min_size=1).map(
        b"".join
    ),
)
MESSAGES = [
    b"1",
    b"1.0",
    b"1e400",
    b"[]",
    b'"a,b],["',
    b'"\\ud83d"',
    b'{"a":\r\n [1,\n 2]}',
    b'"event: control\\n\\n"',
    b'"' + "\N{LINE SEPARATOR}\N{GRINNING FACE}".encode() + b'"',
    b'"a message that is longer than a chunk"',
    b"123456789012345678901234567890",
]
JSONS = st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=6).map(
    lambda messages: b"[" + b" , ".join(messages) + b"]"
)


def steps(payloads: SearchStrategy[bytes]) -> SearchStrategy[list[tuple[str, Any]]]:
    """Return a strategy of steps: of writers, readers, transports, the store and the reactor."""
    somebody = st.integers(0, 3)
    return st.lists(
        st.one_of(
            *[st.tuples(st.just("append"), payloads.filter(bool))] * 4,
            st.tuples(st.just("subscribe"), st.integers(-2, 20)),
            st.tuples(st.just("cramped"), st.integers(-2, 20)),
            st.tuples(st.just("stale"), st.integers(-2, 20)),
            st.tuples(st.just("pause"), somebody),
            st.tuples(st.just("drain"), somebody),
            st.tuples(st.just("leave"), somebody),
            st.tuples(st.sampled_from(["hold", "mute"]), st.booleans()),
            st.tuples(st.sampled_from(["turn", "release", "tell"]), st.none()),
            *[st.tuples(st.just("turn"), st.none())] * 3,
            st.tuples(st.just("wait"), st.integers(1, 20)),
        ),
        min_size=20,
        max_size=60,
    )


def as_text(stored: bytes) -> str:
    """Return text as SSE carries it: each line end is a line feed."""
    return stored.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def as_messages(stored: bytes) -> list[object]:
    """Return the messages of stored JSON."""
    messages: list[object] = json.loads(b"[" + stored[:-1] + b"]")
    return messages


def as_bytes(stored: bytes) -> bytes:
    """Return the bytes unchanged."""
    return stored


def from_text(events: list[str]) -> str:
    """Return the text that a reader received."""
    return "".join(events)


def from_messages(events: list[str]) -> list[object]:
    """Return the messages that a reader received."""
    return [message for event in events for message in json.loads(event)]


def from_bytes(events: list[str]) -> bytes:
    """Return the bytes that a reader received."""
    return b"".join([base64.b64decode(event, validate=True) for event in events])


class Reader(RecordingSink):
    """Sink that records the tail at each write.

    ``stale`` says that its first chunk was read before the subscription.
    """

    def __init__(self, start: int, room: int | None, stale: bool, tail: Callable[[], int]) -> None:
        super().__init__(room)
        self.stale = stale
        self.start = start
        self.left = False
        self.tails: list[int] = []
        self.on_write = lambda: self.tails.append(tail())


class DeliveryTests(LiveTestCase):
    """Random sequences of steps on one stream and its readers."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(limits, "READ_PIECE", CHUNK)
        self.patch(tail_buffer, "TAIL_WINDOW", WINDOW)
        self.patch(tail_buffer, "_STEP", 6)
        self.patch(event_batch, "TAIL_WINDOW", WINDOW)
        self.patch(registry, "FANOUT_SLICE", 2)

    @given(steps(TEXTS))
    def test_text(self, life: list[tuple[str, Any]]) -> None:
        """Followers receive the text of the stream, with line ends as line feeds."""
        self.live("text/plain", life, as_text, from_text)

    @given(steps(JSONS))
    def test_json(self, life: list[tuple[str, Any]]) -> None:
        """Followers receive the messages of the stream, each whole."""
        self.live("application/json", life, as_messages, from_messages)

    @given(steps(st.binary(max_size=80)))
    def test_binary(self, life: list[tuple[str, Any]]) -> None:
        """Followers receive the bytes of the stream."""
        self.live("application/octet-stream", life, as_bytes, from_bytes)

    def live(
        self,
        content_type: str,
        life: list[tuple[str, Any]],
        meant: Callable[[bytes], object],
        shown: Callable[[list[str]], object],
    ) -> None:
        """Run steps on a new server, close the stream, and check each reader."""
        LiveTestCase.setUp(self)
        self.create(content_type)
        self.readers: list[Reader] = []
        self.boundaries = [0]
        self.stale = self.chunk(limit=CHUNK)
        # While notifications are delayed, the tail is unknown.
        self.was_mute = False
        self.happen("subscribe", 0)
        self.happen("cramped", 0)
        for what, how in life:
            self.happen(what, how)
        self.early = [reader for reader in self.readers if reader.over or reader.left]
        self.store.mute = self.store.holding = False
        self.close()
        for _ in range(200):
            self.store.tell()
            self.store.release()
            for reader in self.readers:
                reader.drain()
            self.turn()
        stored = self.chunk(limit=10**6).data
        for reader in self.readers:
            self.judge(reader, stored, meant, shown)
        self.assertNothingLeft()

    def happen(self, what: str, how: Any) -> None:
        """Run one step."""
        store = self.store
        if what == "append":
            self.append(how)
            self.boundaries.append(self.state().tail)
        elif what in ("subscribe", "cramped"):
            offset = NOW if how == -2 else self.boundaries[how % len(self.boundaries)]
            self.stale = self.chunk(offset, limit=CHUNK)
            self.follow(None if what == "subscribe" else 10, stale=False)
        elif what == "stale":
            # The chunk of the request was read some steps earlier.
            self.follow(None, stale=True)
        elif what == "hold":
            store.holding = how
        elif what == "mute":
            store.mute = how
            self.was_mute |= how
        elif what == "release":
            store.release()
        elif what == "tell":
            store.tell()
        elif what == "turn":
            self.turn()
        elif what == "wait":
            self.clock.advance(how)
        elif self.readers:
            reader = self.readers[how % len(self.readers)]
            if what == "leave" and not reader.over:
                reader.left = True
                assert reader.producer is not None
                reader.producer.stopProducing()
            elif what == "pause":
                reader.pause()
            elif what == "drain":
                reader.drain()

    def follow(self, room: int | None, stale: bool) -> None:
        """Subscribe a reader, possibly with a chunk read earlier."""
        reader = Reader(self.stale.start, room, stale, lambda: self.state(PATH).tail)
        reader.producer = self.fanout.subscribe(self.stale, None, reader)
        self.readers.append(reader)

    def judge(
        self,
        reader: Reader,
        stored: bytes,
        meant: Callable[[bytes], object],
        shown: Callable[[list[str]], object],
    ) -> None:
        """Check that each control event has exactly the position of the reader."""
        self.assertFalse(reader.aborted)
        self.assertTrue(reader.ended or reader.left)
        position = reader.start
        seen: list[str] = []
        final = False
        controls = 0
        for write, tail in zip(reader.writes, reader.tails, strict=True):
            events = parse(write)
            if not events:
                self.assertTrue(write.startswith(b":"))
                continue
            self.assertFalse(final)
            kinds = [event.type for event in events]
            self.assertIn(kinds, (["control"], ["data", "control"]))
            seen += [event.data for event in events[:-1]]
            control = json.loads(events[-1].data)
            end = position_of(control["streamNextOffset"])
            self.assertEqual(meant(stored[reader.start : end]), shown(seen))
            final = control.get("streamClosed", False)
            self.assertTrue(end > position or final or not controls)
            self.assertLess(end - position, CHUNK + 250 if shown is from_messages else CHUNK + 1)
            up_to_date = control.get("upToDate", False)
            if not self.was_mute and (controls or not reader.stale):
                self.assertEqual(up_to_date, end == tail)
            self.assertEqual("streamCursor" not in control, final)
            position = end
            controls += 1
        if reader.ended:
            self.assertGreater(controls, 0)
        if final:
            self.assertTrue(reader.ended)
            self.assertEqual(position, len(stored))
        # Only a reconnect or a disconnect prevents a reader from receiving the end.
        self.assertEqual(final, reader not in self.early)
