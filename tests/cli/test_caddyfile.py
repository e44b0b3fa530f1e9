"""Tests of the conversion of Caddyfiles."""

from __future__ import annotations

import contextlib
import tomllib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.caddyfile import Directive, convert, parse
from durable_streams_tw.service.settings_table import SETTINGS


class ParseTests(SynchronousTestCase):
    """Words and blocks."""

    def test_blocks(self) -> None:
        """Blocks nest; comments, quotes and continued lines are understood."""
        text = (
            '# top\na "b {" # c\n{ # global\n x\n}\n'
            'site, other {\n  y 1 \\\n 2\n  z `q "r"` {\n  }\n}\n'
        )
        self.assertEqual(
            parse(text),
            (
                Directive(("a", "b {"), (), 2),
                Directive((), (Directive(("x",), (), 4),), 3),
                Directive(
                    ("site,", "other"),
                    (Directive(("y", "1", "2"), (), 7), Directive(("z", 'q "r"'), (), 9)),
                    6,
                ),
            ),
        )

    def test_unbalanced(self) -> None:
        """Braces without a partner are errors with a line number."""
        for text, message in (("a {\n", "line 1: '{' without '}'"), ("a\n}\n", "line 2: '}'")):
            with self.assertRaisesRegex(ValueError, message):
                parse(text)

    @given(st.text(alphabet='ab {}\n"`#\\,:1', max_size=60))
    def test_any_text(self, text: str) -> None:
        """Every text is parsed or refused with a `ValueError`."""
        with contextlib.suppress(ValueError):
            parse(text)


class ConvertTests(SynchronousTestCase):
    """Settings of Caddyfiles."""

    def test_settings(self) -> None:
        """Every option of the directive becomes a setting or a note."""
        converted = convert(
            """
            { admin off }
            localhost:8787 {
                route /v1/stream/* {
                    durable_streams {
                        data_dir "/var/lib/a b"
                        max_file_handles 100
                        long_poll_timeout 1m30s
                        sse_reconnect_interval 120s
                        webhook_callback_url https://streams.example
                        unknown_option 1
                        data_dir {$DATA}
                    }
                }
                encode gzip
            }
            other.example {
                file_server
            }
            """
        )
        text = "".join(f"{name} = {value}\n" for name, value in converted.settings.items())
        self.assertEqual(
            tomllib.loads(text),
            {
                "interface": "127.0.0.1",
                "port": 8787,
                "root": "/v1/stream/",
                "data-dir": "/var/lib/a b",
                "long-poll-timeout": "90s",
                "sse-reconnect-interval": "120s",
                "public-url": "https://streams.example",
            },
        )
        for name, value in tomllib.loads(text).items():
            SETTINGS[name].parse(str(value))
        for words in ("certificates", "max_file_handles", "unknown_option", "{$DATA}", "encode"):
            self.assertTrue(any(words in note for note in converted.notes), words)
        self.assertTrue(any("other.example" in note for note in converted.notes))

    def test_root(self) -> None:
        """A directive outside of a route serves the streams at the root that is the default."""
        self.assertEqual(convert(":4437 {\n durable_streams\n}").settings, {"port": "4437"})

    def test_refused(self) -> None:
        """An empty file and an invalid duration are errors."""
        for text in ("", ":1 {\n durable_streams {\n long_poll_timeout soon\n }\n}"):
            self.assertRaises(ValueError, convert, text)
