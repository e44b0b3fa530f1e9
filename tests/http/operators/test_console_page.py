"""Tests of the commands in docs/console.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.http.operators.operator_case import OperatorCase
from tests.http.server_fixture import ROOT

_PAGE = Path(__file__).parents[3] / "docs" / "console.md"
_COMMAND = re.compile(r"^\$ curl 'http://localhost:4437(.*)'\n(?!\$|```)(.*)$", re.MULTILINE)


class ConsolePageTests(OperatorCase):
    """Each command prints what the page shows."""

    def test_commands(self) -> None:
        """An ellipsis on the page stands for any text."""
        for name in ("chat/41", "chat/42", "chat/43"):
            self.put(name, "application/json")
        self.put("wakes", "application/json")
        subscription = {"type": "pull-wake", "pattern": "chat/*", "wake_stream": "wakes"}
        target = f"{ROOT}__ds/subscriptions/mail"
        self.ask("PUT", target, json.dumps(subscription).encode(), Content_Type="application/json")
        for message in (b'{"from":"ada"}', b'{"from":"bo"}'):
            self.append("chat/42", message, "application/json")
        self.clock.advance(0)
        commands = _COMMAND.findall(_PAGE.read_text("utf-8"))
        self.assertEqual(len(commands), 4)
        for target, shown in commands:
            answer = self.ask("GET", target)
            self.assertEqual(answer.status, 200)
            pattern = ".*".join(map(re.escape, shown.split("…")))
            self.assertRegex(answer.body.decode(), f"^{pattern}$", target)
