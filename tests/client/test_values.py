"""The pure parts of the client: URLs, events, messages, pauses."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.client.backoff import Backoff, RetryPolicy
from durable_streams_tw.client.errors import BadResponse, BadTarget, retry_after
from durable_streams_tw.client.events import EventParser
from durable_streams_tw.client.messages import messages, on_one_line
from durable_streams_tw.client.urls import target_of
from tests.sse_parser import Parser

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


class TargetTests(SynchronousTestCase):
    """Names and URLs."""

    def test_names(self) -> None:
        """Characters that a URL cannot hold are escaped."""
        target = target_of("chat/4 2?%", "http://h:1/v1/stream")
        self.assertEqual(target.url, "http://h:1/v1/stream/chat/4%202%3F%25")
        self.assertEqual(target.path, "/v1/stream/chat/4%202%3F%25")
        self.assertEqual(target.origin, "http://h:1")

    def test_queries(self) -> None:
        """Parameters are sorted, encoded and added to those of the URL."""
        target = target_of("https://h/s?table=a&key=%20")
        self.assertEqual(
            target.asked(offset="a+b", live="sse", cursor=None),
            "https://h/s?key=%20&live=sse&offset=a%2Bb&table=a",
        )
        self.assertEqual(target.path, "/s")

    def test_credentials(self) -> None:
        """Credentials of a URL become a header, and are in no URL and no message."""
        target = target_of("http://me:a%3Ab@h/s")
        self.assertEqual((target.url, target.authorization), ("http://h/s", "Basic bWU6YTpi"))
        with self.assertRaises(BadTarget) as caught:
            target_of("ftp://me:secret@h/s")
        self.assertNotIn("secret", str(caught.exception))

    def test_no_targets(self) -> None:
        for text in ("", "/", "http://", "http://h", "http://h/", "ftp://h/x", "http://h:x/y"):
            self.assertRaises(BadTarget, target_of, text)


class ReadingTests(SynchronousTestCase):
    """Events and documents."""

    @given(
        st.lists(st.sampled_from([b"event: data\n", b"data:  x\r\n", b"data:y\n", b"\n", b":c\n"]))
    )
    def test_events(self, lines: list[bytes]) -> None:
        """Events are those of the standard's parser, however their bytes are cut."""
        stream = b"".join(lines) + b"\n"
        parser, expected = EventParser(), Parser().feed(stream)
        found = [event for at in range(len(stream)) for event in parser.feed(stream[at : at + 1])]
        self.assertEqual(
            [(event.type.decode(), event.data.decode()) for event in found],
            [(event.type, event.data) for event in expected],
        )

    @given(st.lists(_JSON, max_size=5), st.sampled_from([None, 2]))
    def test_messages(self, values: list[object], indent: int | None) -> None:
        """The elements of an array are its messages, also with a lone surrogate."""
        for document in (values, [*values, "\ud83d"]):
            text = json.dumps(document, indent=indent).encode()
            found = messages(text)
            self.assertEqual([json.loads(message) for message in found], document)
            lines = [on_one_line(message) for message in found]
            self.assertEqual([json.loads(line) for line in lines], document)
            self.assertFalse(any(b"\n" in line for line in lines))

    def test_deep(self) -> None:
        """Elements that are nested deeper than a parser follows are split."""
        deep = b"[" * 5000 + b"]" * 5000
        self.assertEqual(messages(b"[1.0," + deep + b"]"), [b"1.0", deep])

    def test_no_documents(self) -> None:
        for text in (b"", b"{}", b"[1", b"[1]]", b'["\\ud83d"'):
            self.assertRaises(BadResponse, messages, text)


class BackoffTests(SynchronousTestCase):
    """Times of retries."""

    def test_pauses_grow_to_a_bound(self) -> None:
        backoff = Backoff(RetryPolicy(retry_for=None), lambda: 0.0, lambda: 1.0)
        pauses = [backoff.failed() for _ in range(12)]
        self.assertEqual(pauses[:3] + pauses[-1:], [0.1, 0.2, 0.4, 10.0])
        backoff.succeeded()
        self.assertEqual(backoff.failed(3.0), 3.0)

    def test_the_end(self) -> None:
        """The limit counts from the first of consecutive failures."""
        now = [0.0]
        backoff = Backoff(RetryPolicy(retry_for=5), lambda: now[0], lambda: 1.0)
        self.assertIsNotNone(backoff.failed())
        now[0] = 4.9
        self.assertIsNone(backoff.failed())
        backoff.succeeded()
        self.assertIsNotNone(backoff.failed())

    def test_retry_after(self) -> None:
        """Retry-After is seconds or a date, and bounded."""
        for text, seconds in (
            ("2", 2),
            ("Thu, 01 Jan 1970 00:00:10 GMT", 5),
            ("999999", 60),
            ("soon", 0),
            ("", 0),
        ):
            self.assertEqual(retry_after({"retry-after": text}, 5.0), seconds)
