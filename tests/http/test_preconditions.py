"""Preconditions of writes, through both doors."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.http.settings import Settings
from tests.http.server_fixture import ROOT, Client, ServerFixture

TEXT = {"Content-Type": "text/plain"}


class PreconditionTests(SynchronousTestCase):
    """What a client that read a stream's ETag may rely on."""

    def doors(self) -> list[ServerFixture | Client]:
        """Return the ways into the same kind of server: Klein, and the HTTP/1.1 engine."""
        door: Any = ServerFixture().streams.http_factory()
        return [ServerFixture(), Client(door)]

    def test_both_doors(self) -> None:
        """A write with the current ETag is carried out, one with an older is 412."""
        for door in self.doors():
            path = (
                (lambda name: name) if isinstance(door, ServerFixture) else lambda name: ROOT + name
            )

            def ask(method: str, body: bytes | None = None, **more: str) -> tuple[int, str, str]:
                header = {name.replace("_", "-"): value for name, value in more.items()}
                answer = door.ask(method, path("a"), {**TEXT, **header}, body)  # noqa: B023
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
    """What a preflight allows."""

    def test_setting(self) -> None:
        """Fields that the operator names are allowed beside those of the protocol."""
        fixture = ServerFixture(Settings(cors_headers=("X-Request-Id",)))
        allowed = fixture.ask("OPTIONS", "a").header["access-control-allow-headers"].split(", ")
        self.assertIn("X-Request-Id", allowed)
        self.assertIn("Stream-Seq", allowed)
