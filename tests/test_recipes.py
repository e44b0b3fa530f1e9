"""Tests of the programs in docs/embedding.md."""

from __future__ import annotations

import re
import runpy
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from tests.examples.blocks import one
from tests.http.server_fixture import Client

_PAGE = Path(__file__).parent.parent / "docs" / "embedding.md"


class RecipeTests(SynchronousTestCase):
    """Each program of the page runs in a process and prints what the page shows."""

    def programs(self) -> list[str]:
        return re.findall(r"```python\n(.*?)```", _PAGE.read_text("utf-8"), re.DOTALL)

    def load(self, number: int) -> dict[str, Any]:
        path = Path(self.mktemp())
        path.write_text(self.programs()[number], "utf-8")
        return runpy.run_path(str(path))

    def run_to_its_end(self, number: int, name: str) -> str:
        program = self.load(number)
        printed = StringIO()
        with redirect_stdout(printed):
            clock = MemoryReactorClock()
            done = ensureDeferred(program[name](clock))
            # Readers are woken in later turns of the reactor.
            clock.pump([0] * 20)
            self.successResultOf(done)
        return printed.getvalue()

    def test_mounted(self) -> None:
        """The app serves its own page and the streams."""
        program = self.load(0)
        # In memory: the page's directory belongs to the user who copies the program.
        streams = program["DurableStreams"](reactor=MemoryReactorClock())
        streams.startService()
        program["mounted"].__globals__["streams_resource"] = streams.resource()
        site = Site(
            program["app"].resource(),
            requestFactory=program["StreamRequest"],
            reactor=MemoryReactorClock(),
        )
        client = Client(site)
        self.assertIn(b"has streams", client.ask("GET", "/").body)
        text = {"Content-Type": "text/plain"}
        self.assertEqual(client.ask("PUT", "/my/streams/a", text, b"x").status, 201)
        self.assertEqual(Client(site).ask("GET", "/my/streams/a").body, b"x")

    def test_written_to(self) -> None:
        printed = self.run_to_its_end(1, "work")
        self.assertEqual(
            printed,
            one("docs/embedding.md", "text"),
        )

    def test_followed(self) -> None:
        self.assertEqual(self.run_to_its_end(2, "main"), "an answer comes in pieces\n")
