"""Tests of `durable_streams_tw.http.operators.stream_bytes`."""

from __future__ import annotations

from base64 import b64decode
from typing import Any
from urllib.parse import urlencode

from tests.http.operators.operator_case import OperatorCase
from tests.http.server_fixture import ROOT


class StreamBytesTests(OperatorCase):
    """Requests to ``/-/bytes``."""

    def bytes_of(self, stream: str, **query: str | int) -> dict[str, Any]:
        """Return a response with its bytes decoded."""
        shown = self.shown("/-/bytes?" + urlencode({"stream": stream, **query}))
        return {**shown, "data": b64decode(shown["data"])}

    def test_backwards(self) -> None:
        """Responses without an offset, and then with ``before``, have the stream backwards."""
        self.put("a")
        self.append("a", b"0123456789")
        last = self.bytes_of("a", limit=4)
        self.assertEqual((last["start"], last["data"]), (6, b"6789"))
        self.assertEqual((last["stream"]["path"], last["stream"]["size"]), ("a", 10))
        ((begin, number),) = last["incarnations"]
        self.assertEqual((begin, last["stream"]["next_offset"]), (0, f"{number:0>20}_{10:016d}"))
        earlier = self.bytes_of("a", limit=4, before=f"{number}_6")
        self.assertEqual((earlier["start"], earlier["data"]), (2, b"2345"))
        first = self.bytes_of("a", limit=4, before=f"{number}_2")
        self.assertEqual((first["start"], first["data"]), (0, b"01"))
        self.assertEqual(self.bytes_of("a", before="-1")["data"], b"")

    def test_forwards(self) -> None:
        """A response with ``after`` has the bytes from the offset on."""
        self.put("a")
        self.append("a", b"0123456789")
        self.assertEqual(self.bytes_of("a", after="-1", limit=3)["data"], b"012")
        self.assertEqual(self.bytes_of("a", after="0_8")["data"], b"89")
        self.assertEqual(self.bytes_of("a", after="now")["data"], b"")

    def test_json(self) -> None:
        """Bytes of a JSON stream may begin and end inside a message; only ``after`` may not."""
        self.put("a", "application/json")
        self.append("a", b'[{"n":1},{"n":2}]', "application/json")
        self.assertEqual(self.bytes_of("a", limit=7)["data"], b'"n":2},')
        self.assertEqual(self.bytes_of("a", before="0_3")["data"], b'{"n')
        answer = self.ask("GET", "/-/bytes?stream=a&after=0_3")
        self.assertEqual(answer.status, 400)

    def test_appends(self) -> None:
        """A response names the positions at which the appends in it began."""
        self.put("a")
        for body in (b"one", b"two", b"three"):
            self.append("a", body)
        self.assertEqual(self.bytes_of("a")["appends"], [0, 3, 6])
        self.assertEqual(self.bytes_of("a", limit=6)["appends"], [3, 6])

    def test_refused(self) -> None:
        """Missing streams, bad offsets and malformed queries are refused."""
        self.put("a")
        for query, status in (
            ("", 404),
            ("stream=b", 404),
            ("stream=a&before=x", 400),
            ("stream=a&before=7_0", 410),
            ("stream=a&before=-1&after=-1", 400),
            ("stream=a&limit=0", 400),
            ("stream=a&limit=262145", 400),
            ("stream=a&stream=b", 400),
            ("stream=%FF", 400),
        ):
            self.assertEqual(self.ask("GET", f"/-/bytes?{query}").status, status, query)
        self.assertEqual(self.ask("POST", "/-/bytes?stream=a", b"").status, 405)

    def test_deleted(self) -> None:
        """The bytes of a deleted stream get 404, and its appends are forgotten."""
        self.put("a")
        self.append("a", b"x")
        self.ask("DELETE", ROOT + "a")
        self.assertEqual(self.ask("GET", "/-/bytes?stream=a").status, 404)
        self.put("a")
        self.assertEqual(self.bytes_of("a")["appends"], [])
