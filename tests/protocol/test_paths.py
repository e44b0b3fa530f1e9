"""Tests of `durable_streams_tw.protocol.paths`."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol.errors import Problem, Refused
from durable_streams_tw.protocol.limits import MAX_PATH
from durable_streams_tw.protocol.paths import check_stream_path, is_reserved, parse_stream_path
from tests.protocol.refusal_case import RefusalTestCase


class NameTests(RefusalTestCase):
    """Stream names from paths."""

    def test_decoded_exactly_once(self) -> None:
        """Percent escapes are decoded once, as UTF-8."""
        for raw, name in (
            (b"a", "a"),
            (b"a/b/c", "a/b/c"),
            (b"a%2Fb%2fc", "a/b/c"),
            (b"%61", "a"),
            (b"a%20b", "a b"),
            (b"a+b", "a+b"),
            (b"%25", "%"),
            (b"%252e%252e", "%2e%2e"),
            (b"%252F", "%2F"),
            (b"%2500", "%00"),
            (b"caf%C3%A9", "café"),
            ("café".encode(), "café"),
            (b"%F0%9F%98%80", "\U0001f600"),
            (b"a%3Fb%23c", "a?b#c"),
            (b"a;b=c,d", "a;b=c,d"),
            (b"...", "..."),
            (b".a/..b/c.", ".a/..b/c."),
            (b"a%5C..%5Cb", "a\\..\\b"),
            (b"__ds", "__ds"),
        ):
            self.assertEqual(parse_stream_path(raw), name)

    def test_traversal(self) -> None:
        """Dot segments are refused in any escaped form."""
        for raw in (
            *(b".", b"..", b"../a", b"a/..", b"a/../b", b"a/./b", b"./a", b"a/."),
            *(b"%2e", b"%2E%2e", b"%2e./a", b".%2e/a", b"a/%2E%2E/b", b"a%2F..%2Fb", b"a%2f%2e%2e"),
            *(b"%2e%2e%2fetc", b"a/%2e"),
        ):
            self.assertRefused(Problem.MALFORMED_PATH, parse_stream_path, raw)

    def test_empty_segments(self) -> None:
        """Empty segments are refused."""
        for raw in (b"", b"/", b"//", b"/a", b"a/", b"a//b", b"%2F", b"a%2F", b"%2Fa", b"a%2F/b"):
            self.assertRefused(Problem.MALFORMED_PATH, parse_stream_path, raw)

    def test_control_characters(self) -> None:
        """Control characters and line separators are refused, raw or escaped."""
        for character in [*map(chr, (*range(0x20), *range(0x7F, 0xA0))), "\u2028", "\u2029"]:
            escaped = quote(character).encode()
            for form in (character.encode(), escaped, escaped.lower()):
                for raw in (form, b"a" + form, form + b"a", b"a/" + form + b"/b"):
                    self.assertRefused(Problem.MALFORMED_PATH, parse_stream_path, raw)
        self.assertEqual(parse_stream_path(b"%C2%A0"), "\xa0")

    def test_broken_escapes(self) -> None:
        """A percent sign without two hexadecimal digits is refused."""
        for raw in (
            b"%",
            b"a%",
            b"%2",
            b"%zz",
            b"%2g",
            b"%%41",
            b"%u0041",
            b"%-1",
            b"% 1",
            b"a%2/b",
        ):
            self.assertRefused(Problem.MALFORMED_PATH, parse_stream_path, raw)

    def test_not_utf8(self) -> None:
        """Bytes that are not UTF-8 are refused, raw or escaped."""
        for raw in (
            *(b"\xff", b"%FF", b"%C0%AF", b"%C0%80", b"%E0%80%AF", b"%C3", b"caf\xe9"),
            *(b"%ED%A0%80", b"%F4%90%80%80", b"%80", b"%E2%82"),
        ):
            self.assertRefused(Problem.MALFORMED_PATH, parse_stream_path, raw)

    def test_length(self) -> None:
        """The limit counts bytes of UTF-8 after decoding."""
        for character in ("a", "é", "\u20ac", "\U0001f600"):
            size = len(character.encode())
            longest = character * (MAX_PATH // size) + "a" * (MAX_PATH % size)
            self.assertEqual(parse_stream_path(longest.encode()), longest)
            self.assertEqual(parse_stream_path(quote(longest).encode()), longest)
            for longer in (longest + "a", longest[:-1] + "aaaa" + character):
                self.assertRefused(Problem.MALFORMED_PATH, parse_stream_path, longer.encode())
                self.assertRefused(
                    Problem.MALFORMED_PATH, parse_stream_path, quote(longer).encode()
                )
        self.assertRefused(Problem.MALFORMED_PATH, parse_stream_path, b"a" * 1_000_000)

    def test_decoded_names(self) -> None:
        """Decoded names, from bodies or programs, have the same rules."""
        check_stream_path("a/b%2F")
        for name in ("", "a//b", "..", "a\n", "a\x85", "\ud83d", "a/\udc80", "a" * (MAX_PATH + 1)):
            self.assertRefused(Problem.MALFORMED_PATH, check_stream_path, name)

    @given(st.binary(max_size=30) | st.text(max_size=10).map(lambda text: quote(text).encode()))
    def test_any_path(self, raw: bytes) -> None:
        """Any path is refused or names a stream, whose path leads to the same name."""
        try:
            name = parse_stream_path(raw)
        except Refused as refused:
            self.assertEqual(refused.refusal.problem, Problem.MALFORMED_PATH)
            return
        self.assertEqual(parse_stream_path(quote(name).encode()), name)
        for segment in name.split("/"):
            self.assertNotIn(segment, ("", ".", ".."))
        self.assertFalse(any(ord(character) < 0x20 for character in name))

    @given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1))
    def test_any_name(self, segment: str) -> None:
        """Any text without control characters can name a stream if it is escaped."""
        name = f"a/{segment.replace('/', '_')}_"
        self.assertEqual(parse_stream_path(quote(name, safe="/").encode()), name)


class ReservedTests(RefusalTestCase):
    """PROTOCOL.md §6."""

    def test_reserved(self) -> None:
        """The first segment decides whether a name is reserved."""
        for name, reserved in (
            ("__ds", True),
            ("__ds/subscriptions/a", True),
            ("__ds_", False),
            ("__dsx/a", False),
            ("a/__ds", False),
            ("__health__", False),
            ("__DS", False),
        ):
            self.assertEqual(is_reserved(name), reserved, name)
