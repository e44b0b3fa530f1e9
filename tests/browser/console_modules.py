"""Tests of the console's pure JavaScript modules, imported by a page of Chromium."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

from tests.browser.pages import BrowserTestCase, url
from tests.service.black_box import Foreground

_TEXTS = st.text(st.sampled_from('"\\\\,[]{}:a\u00e9\n'), max_size=8)
_VALUES = st.recursive(
    st.none() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_BYTES = """
const { messagesBefore, messagesAfter, rowStarts, hexColumns } = await import("./console/cut.js");
const bytes = (text) => new TextEncoder().encode(text);
"""


class ConsoleModuleTests(BrowserTestCase):
    """Functions of the modules cut, json and ansi."""

    def setUp(self) -> None:
        super().setUp()
        listen = ("--listen", "tcp:0:interface=127.0.0.1")
        server = Foreground(self.directory, "durable-streams", "--console", *listen)
        server.__enter__()
        self.addCleanup(server.__exit__, None, None, None)
        # The console's policy allows no script of a test.
        self.tab: Page = self.page(bypass_csp=True)
        self.tab.goto(f"{url(server.port)}/-/console")

    def call(self, code: str, argument: object = None) -> Any:
        """Return the value of a function body, called with ``given``."""
        return self.tab.evaluate(f"async (given) => {{ {_BYTES} {code} }}", argument)

    def test_messages(self) -> None:
        """Messages are found backwards from any window that ends at a boundary, and forwards."""

        @settings(max_examples=40, deadline=None)
        @given(st.lists(_VALUES, max_size=5), st.integers(0, 40))
        def examine(values: list[Any], cut: int) -> None:
            messages = [json.dumps(value, ensure_ascii=False).encode() + b"," for value in values]
            starts = [sum(map(len, messages[:number])) for number in range(len(messages))]
            log = b"".join(messages)
            cut = min(cut, len(log))
            backwards, forwards = self.call(
                """
                const log = Uint8Array.from(given[0]);
                const window = log.subarray(given[1]);
                return [messagesBefore(window, given[1] === 0), messagesAfter(log)];
                """,
                [list(log), cut],
            )
            expected = [start - cut for start in starts if start > cut or (start == cut == 0)]
            self.assertEqual(backwards, expected)
            self.assertEqual(forwards, [*starts, len(log)][1:])

        examine()

    def test_rows(self) -> None:
        """Text has rows by known appends and before them by lines, other data by blocks."""
        for kind, text, position, appends, expected in (
            ("text", "a\nb\nc", 0, None, [0, 2, 4]),
            ("text", "a\nb\n", 10, None, [2]),
            ("text", "a\nb\ncd\ne", 0, [2, 7], [0, 2, 7]),
            ("text", "a\nb\ncd\ne", 5, [10], [2, 4, 5]),
            ("text", "", 0, [], [0]),
            ("hex", "x" * 600, 0, None, [0, 256, 512]),
            ("hex", "x" * 600, 200, None, [56, 312, 568]),
            ("hex", "x" * 300, 512, None, [0, 256]),
            ("hex", "x" * 300, 200, [203, 210], [3, 10]),
            # The bytes begin within a known append.
            ("text", "a\nb\ncd\ne", 5, [1, 9], [4]),
            ("text", "a\nb\n", 5, [1], []),
            ("text", "a\nb\n", 5, [1, 5], [0]),
            ("hex", "x" * 600, 512, [100], []),
        ):
            code = "return rowStarts(given[0], bytes(given[1]), given[2], given[3]);"
            found = self.call(code, [kind, text, position, appends])
            self.assertEqual(found, expected, (kind, text, position, appends))

    def test_hex(self) -> None:
        """A dump has positions, bytes in groups of eight, and printable characters."""
        found = self.call('return hexColumns(bytes("ABCDEFGHIJ\\n"), 32);')
        self.assertEqual(found["positions"], ["00000020"])
        self.assertEqual(found["hex"], ["41 42 43 44 45 46 47 48  49 4a 0a"])
        self.assertEqual(found["characters"], ["ABCDEFGHIJ."])

    def test_json(self) -> None:
        """Messages keep their numbers and escapes; filters compare fields."""
        imported = 'const { pretty, matcher } = await import("./console/json.js");'
        text = '{"n":9007199254740993,"e":"\\u00e9","l":[],"o":{"a":[1,-2.5e3,true]}}'
        parts = self.call(imported + "return pretty(given);", text)
        shown = "".join(part for part, _ in parts)
        self.assertEqual(
            shown, '{"n": 9007199254740993, "e": "\\u00e9", "l": [], "o": {"a": [1, -2.5e3, true]}}'
        )
        self.assertIn(['"n"', "key"], parts)
        self.assertIn(["9007199254740993", "literal"], parts)
        long = self.call(imported + "return pretty(given);", '{"a":["' + "x" * 80 + '"]}')
        self.assertEqual(
            "".join(part for part, _ in long), '{\n  "a": [\n    "' + "x" * 80 + '"\n  ]\n}'
        )
        for filter_, matches in (
            ("", True),
            ("9007199 U00E9", True),
            ("missing", False),
            ("o.a.1=-2500", True),
            ("o.a.0>=1 o.a.0<2", True),
            ("o.a.0>1", False),
            ("e=é", True),
            ("no.such=1", False),
            ("no.such!=1", True),
            ("l=[]", True),
        ):
            code = imported + "return matcher(given[0], true)(given[1]);"
            self.assertEqual(self.call(code, [filter_, text]), matches, filter_)

    def test_ansi(self) -> None:
        """Colours and styles become class names; other sequences are dropped."""
        imported = 'const { styled } = await import("./console/ansi.js");'
        for text, expected in (
            ("plain", [["plain", ""]]),
            ("\x1b[31mred\x1b[0m.", [["red", "f1"], [".", ""]]),
            ("\x1b[1;42mok\x1b[22m\x1b[49m.", [["ok", "bold g2"], [".", ""]]),
            ("\x1b[93ma\x1b[39mb", [["a", "f3"], ["b", ""]]),
            ("\x1b[38;5;196mx\x1b[48;2;0;0;255my", [["x", "f1"], ["y", "f1 g4"]]),
            ("\x1b[38;5;33mx", [["x", "f4"]]),
            ("\x1b[2K\x1b]0;title\x07a\x1b[1Ab", [["a", ""], ["b", ""]]),
        ):
            found = self.call(imported + "return styled(given);", text)
            self.assertEqual(found, expected, text)
