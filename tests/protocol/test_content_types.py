"""Tests of `durable_streams_tw.protocol.content_types`."""

from __future__ import annotations

import time

from durable_streams_tw.protocol import content_types
from tests.protocol.refusal_case import RefusalTestCase


class ContentTypeTests(RefusalTestCase):
    """Comparison and validation of media types."""

    def test_essence(self) -> None:
        """The essence is in lower case, without parameters and white space."""
        for value, essence in (
            ("text/plain", "text/plain"),
            ("TEXT/Plain; charset=UTF-8", "text/plain"),
            ("text/plain ;x=1", "text/plain"),
            (" Application/JSON\t; a=b; c=d", "application/json"),
        ):
            self.assertEqual(content_types.essence(value), essence)

    def test_same(self) -> None:
        """Types are equal regardless of case and parameters."""
        for one, other in (
            ("text/plain", "text/plain"),
            ("text/plain", "TEXT/PLAIN"),
            ("application/json; charset=utf-8", "application/json"),
            ("text/plain ;x", "text/plain;y"),
        ):
            self.assertTrue(content_types.same(one, other))
            self.assertTrue(content_types.same(other, one))
        for one, other in (
            ("text/plain", "text/plain2"),
            ("text/plain", "text/html"),
            ("application/json", "application/ld+json"),
            ("application/json", "application/jsonl"),
            ("application/octet-stream", ""),
        ):
            self.assertFalse(content_types.same(one, other))
            self.assertFalse(content_types.same(other, one))

    def test_json_and_text(self) -> None:
        """JSON mode is `application/json` only; text is `text/*` and JSON."""
        for value, json, text in (
            ("application/json", True, True),
            ("Application/Json; charset=utf-8", True, True),
            ("application/ld+json", False, False),
            ("application/ndjson", False, False),
            ("text/json", False, True),
            ("text/plain", False, True),
            ("TEXT/x-any", False, True),
            ("application/octet-stream", False, False),
            ("application/text", False, False),
        ):
            self.assertEqual(content_types.is_json(value), json, value)
            self.assertEqual(content_types.is_text(value), text, value)
        self.assertFalse(content_types.is_text(content_types.DEFAULT))

    def test_media_types(self) -> None:
        """Media types have the grammar of RFC 9110 §8.3.1, with lenient parameters."""
        for value in (
            *(
                "text/plain",
                "application/json",
                "application/vnd.api+json",
                "a/b",
                "x-y.z/*",
                "A/B",
            ),
            *(
                "text/plain;charset=utf-8",
                "text/plain ; charset=utf-8",
                "text/plain;",
                "text/plain; ;",
            ),
            *(
                "text/plain;\tcharset=utf-8",
                'text/plain; a="b,c\\"d;e"',
                "text/plain; profile=a:b/c",
            ),
            *("multipart/form-data; boundary=----x", " text/plain ", 'a/b;x="";y=z'),
        ):
            self.assertTrue(content_types.is_media_type(value), value)
        for value in (
            *(
                "",
                " ",
                "text",
                "/",
                "text/",
                "/plain",
                "text//plain",
                "text/plain/x",
                "text /plain",
            ),
            *("te xt/plain", "text/pl ain", "text/plain, text/html", "text/plain;a=b, text/html"),
            *("text/plain charset=utf-8", 'text/plain;a="b', 'text/plain;a="b\\"', "a/b;\r\nX: y"),
            *(
                "a/b;\0",
                "a/b;\x7f",
                "a/b;é",
                "é/b",
                "a/b;\u2028",
                "a/b\n",
                "\na/b",
                "a/b;x\n",
                "(a)/b",
            ),
        ):
            self.assertFalse(content_types.is_media_type(value), value)

    def test_long_media_types(self) -> None:
        """Long malformed types are refused in linear time."""
        for value in ("a/b" + ";" * 1000 + ",", 'a/b;"' + '\\"' * 500, "a/b;" + '""' * 400 + ","):
            begin = time.process_time()
            self.assertFalse(content_types.is_media_type(value))
            self.assertLess(time.process_time() - begin, 0.5)
