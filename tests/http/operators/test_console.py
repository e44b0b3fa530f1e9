"""Tests of the console page as it is sent; `tests.browser` tests its behaviour."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from twisted.web.resource import IResource

from durable_streams_tw.http.operators.console import Console
from tests.http.operators.operator_case import OperatorCase

FILES = Path(str(files("durable_streams_tw.http.operators.console")))


class ConsoleTests(OperatorCase):
    """Requests for the console."""

    def resources(self) -> dict[bytes, IResource]:
        return {b"console": Console(b'a/"&/')}

    def test_page(self) -> None:
        """The page and its files are served without a token."""
        answer = self.ask("GET", "/-/console")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.header["content-type"], "text/html; charset=utf-8")
        self.assertEqual(answer.header["x-content-type-options"], "nosniff")
        self.assertIn(b'data-root="/a/&quot;&amp;/"', answer.body)
        self.assertEqual(self.ask("HEAD", "/-/console").status, 200)
        self.assertEqual(self.ask("POST", "/-/console").status, 405)
        for name, kind in (("page.css", "text/css"), ("main.js", "text/javascript")):
            answer = self.ask("GET", f"/-/console/{name}")
            self.assertEqual((answer.status, answer.body), (200, (FILES / name).read_bytes()))
            self.assertEqual(answer.header["content-type"], f"{kind}; charset=utf-8")
        for name in ("", "x", "page.html", "__init__.py", "../console/main.js", "main.js/"):
            self.assertEqual(self.ask("GET", f"/-/console/{name}").status, 404, name)

    def test_policy(self) -> None:
        """The policy allows only what has the nonce, which each response has of its own."""
        nonces = set()
        for _ in range(2):
            answer = self.ask("GET", "/-/console")
            policy = dict(
                directive.split(" ", 1)
                for directive in answer.header["content-security-policy"].split("; ")
            )
            (nonce,) = set(re.findall('nonce="([^"]{22})"', answer.body.decode()))
            nonces.add(nonce)
            for directive in ("script-src", "style-src"):
                self.assertEqual(policy[directive], f"'nonce-{nonce}'")
            self.assertEqual(policy["default-src"], "'none'")
            self.assertEqual(policy["connect-src"], "'self'")
            self.assertEqual(policy["frame-ancestors"], "'none'")
        self.assertEqual(len(nonces), 2)

    def test_nothing_inline(self) -> None:
        """The page has no inline scripts, handlers and styles, which the policy would block."""
        page = self.ask("GET", "/-/console").body.decode("utf-8")
        self.assertEqual(re.findall(r"""\s(?:on\w+|style)\s*=|<style""", page), [])
        self.assertEqual(re.findall("<script[^>]*>[^<]", page), [])

    def test_no_markup_from_text(self) -> None:
        """The scripts never make elements, styles or code from text."""
        for script in FILES.glob("*.js"):
            found = re.findall(
                r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write|setAttribute\(.style",
                script.read_text("utf-8"),
            )
            self.assertEqual(found, [], script.name)
