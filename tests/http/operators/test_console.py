"""Tests of the console page as it is sent; `tests.browser` tests its behaviour."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.embedded.api import DurableStreams
from durable_streams_tw.http.operators.console import Console, whole_page
from durable_streams_tw.http.operators.resources import OperatorTree
from tests.http.server_fixture import Answer, Client, at_once


class ConsoleTests(SynchronousTestCase):
    """Through whole requests."""

    def ask(self, method: str, target: str = "/-/console") -> Answer:
        """Send one request."""
        streams = DurableStreams(reactor=Clock(), in_thread=at_once)
        streams.startService()
        self.addCleanup(streams.stopService)
        tree = OperatorTree()
        tree.putChild(b"console", Console())
        client = Client(streams.site(operators=tree))
        answer = client.ask(method, target)
        client.leave()
        return answer

    def test_page(self) -> None:
        """The page is served without a token, and has no children."""
        answer = self.ask("GET")
        self.assertEqual((answer.status, answer.body), (200, whole_page()[0]))
        self.assertEqual(answer.header["content-type"], "text/html; charset=utf-8")
        self.assertEqual(answer.header["x-content-type-options"], "nosniff")
        self.assertEqual(self.ask("HEAD").status, 200)
        self.assertEqual(self.ask("POST").status, 405)
        self.assertEqual(self.ask("GET", "/-/console/x").status, 404)

    def test_policy(self) -> None:
        """The policy allows only the inline script and style."""
        answer = self.ask("GET")
        policy = dict(
            directive.split(" ", 1)
            for directive in answer.header["content-security-policy"].split("; ")
        )
        page = answer.body.decode("utf-8")
        for tag, directive in (("script", "script-src"), ("style", "style-src")):
            (content,) = re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL)
            digest = b64encode(sha256(content.encode("utf-8")).digest()).decode("ascii")
            self.assertEqual(policy[directive], f"'sha256-{digest}'")
        self.assertEqual(policy["default-src"], "'none'")
        self.assertEqual(policy["connect-src"], "'self'")
        self.assertEqual(policy["frame-ancestors"], "'none'")

    def test_nothing_inline(self) -> None:
        """The page has no inline handlers and styles, which the policy would block."""
        page = whole_page()[0].decode("utf-8")
        markup = re.sub("<(script|style)>.*?</\\1>", "", page, flags=re.DOTALL)
        self.assertEqual(re.findall(r"""\s(?:on\w+|style)\s*=""", markup), [])
        self.assertEqual(re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(", page), [])
