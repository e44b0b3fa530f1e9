"""Tests of preconditions of writes, with both HTTP/1.1 servers."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.settings import Settings
from tests.http.server_fixture import ROOT, Client, ServerFixture

TEXT = {"Content-Type": "text/plain"}


class PreconditionTests(SynchronousTestCase):
    """Writes with If-Match and If-None-Match."""

    def servers(self) -> list[ServerFixture | Client]:
        """Return clients of twisted.web and of the HTTP/1.1 engine."""
        factory: Any = ServerFixture().streams.http_factory()
        return [ServerFixture(), Client(factory)]

    def test_if_match(self) -> None:
        """A write with the current ETag is executed, one with an older ETag gets 412."""
        for factory in self.servers():
            path = (
                (lambda name: name)
                if isinstance(factory, ServerFixture)
                else lambda name: ROOT + name
            )

            def ask(method: str, body: bytes | None = None, **more: str) -> tuple[int, str, str]:
                header = {name.replace("_", "-"): value for name, value in more.items()}
                answer = factory.ask(method, path("a"), {**TEXT, **header}, body)  # noqa: B023
                problem = json.loads(answer.body)["type"] if answer.status >= 400 else ""
                return answer.status, answer.header.get("etag", ""), problem

            self.assertEqual(ask("PUT", If_None_Match="*")[0], 201)
            self.assertEqual(ask("PUT", If_None_Match="*")[0], 412)
            tag = ask("HEAD")[1]
            self.assertEqual(ask("POST", b"one", If_Match=tag)[0], 204)
            status, current, problem = ask("POST", b"two", If_Match=tag)
            self.assertEqual((status, current), (412, ask("HEAD")[1]))
            self.assertEqual(problem, "urn:durable-streams:problem:precondition-failed")
            self.assertEqual(ask("DELETE", If_Match=tag)[0], 412)
            self.assertEqual(ask("DELETE", If_Match=f'"other", {current}')[0], 204)
            self.assertEqual(ask("PUT", If_Match="*")[0], 412)


class CorsHeaderTests(SynchronousTestCase):
    """Headers that a preflight allows."""

    def test_setting(self) -> None:
        """Configured headers are allowed in addition to those of the protocol."""
        fixture = ServerFixture(Settings(cors_headers=("X-Request-Id",)))
        allowed = fixture.ask("OPTIONS", "a").header["access-control-allow-headers"].split(", ")
        self.assertIn("X-Request-Id", allowed)
        self.assertIn("Stream-Seq", allowed)
