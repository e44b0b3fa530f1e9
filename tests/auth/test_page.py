"""Tests of the examples in docs/auth.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth.grants import VERBS, Verb, grants_of
from durable_streams_tw.auth.token_file import read_table
from durable_streams_tw.service.auth_checkers import read_jwt
from durable_streams_tw.service.settings_table import SETTINGS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "auth.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    """Return the code blocks of one language."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


class PageTests(SynchronousTestCase):
    """Examples of the page."""

    def test_file(self) -> None:
        """The token file is valid."""
        (text,) = blocks("toml")
        self.assertEqual(len(read_table(text.encode(), b"k")), 2)

    def test_jwt(self) -> None:
        """The argument of ``jwt:`` is valid, and the claims have its issuer and a grant."""
        (argument,) = re.findall(r"--auth jwt:(\S+)", "\n".join(blocks("sh")))
        expected, jwks = read_jwt(argument)
        self.assertEqual((expected.issuer, expected.audience), ("https://id.example", "streams"))
        self.assertTrue(jwks.startswith("https://id.example/"))
        (text,) = blocks("json")
        claims = json.loads(text)
        self.assertEqual((claims["iss"], claims["aud"]), (expected.issuer, expected.audience))
        grants = grants_of(claims[expected.claim], strict=True)
        self.assertTrue(grants.allow(Verb.APPEND, "chats/17"))

    def test_program(self) -> None:
        """The checker runs."""
        (text,) = blocks("python")
        text = text.replace('DurableStreams("./data", ', "DurableStreams(")
        space: dict[str, Any] = {}
        exec(compile(text, "docs/auth.md", "exec"), space)
        checker = space["Sessions"]({"secret": "ann"})
        from durable_streams_tw.auth.identities import BearerToken

        who = self.successResultOf(checker.requestAvatarId(BearerToken("secret")))
        self.assertTrue(who.grants.allow(Verb.READ, "users/ann/1"))
        self.failureResultOf(checker.requestAvatarId(BearerToken("other")))

    def test_complete(self) -> None:
        """The page has every verb and no unknown option."""
        self.assertEqual(
            [verb for verb in VERBS if not re.search(rf"^\| `{verb}` \|", PAGE, re.MULTILINE)], []
        )
        for name in re.findall(r"--([a-z][a-z-]*)", PAGE):
            self.assertIn(name, {*SETTINGS, "grant"})
