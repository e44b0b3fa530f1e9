"""Tests of the pages of examples and tutorial, reloaded while tokens arrive."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from playwright.sync_api import expect

from tests.browser.pages import PATIENCE, BrowserTestCase
from tests.examples import tutorial
from tests.examples.programs import EXAMPLES, RunningProgram, run_program
from tests.examples.test_examples import ANSWER, QUESTION

expect.set_options(timeout=PATIENCE)


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing."""


class ReloadTests(BrowserTestCase):
    """A reloaded page shows every token once."""

    def setUp(self) -> None:
        super().setUp()
        self.here = Path(self.mktemp()).absolute()
        self.here.mkdir()

    def test_llm_tokens(self) -> None:
        with RunningProgram(
            self.here, sys.executable, str(EXAMPLES / "llm_tokens/app.py"), "0"
        ) as app:
            page = self.page()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(app.url)
            page.get_by_label("Question").fill(QUESTION)
            page.get_by_role("button", name="Ask").click()
            answer = page.locator("#answer")
            expect(answer).to_contain_text("You asked:")
            page.reload()
            expect(answer).to_contain_text("You asked:")
            expect(page.locator("#state")).to_contain_text("complete")
            self.assertEqual(answer.text_content(), ANSWER)
            live = [url for url in asked if "live=sse" in url]
            self.assertIn("offset=-1", live[0])
            self.assertNotIn("offset=-1", live[-1])
            page.reload()
            expect(page.locator("#state")).to_contain_text("complete")
            self.assertEqual(answer.text_content(), ANSWER)

    def test_tutorial(self) -> None:
        with RunningProgram(self.here, "durable-streams-server", "dev", "--port", "0") as server:
            tutorial.write_files(self.here, server.url)
            files = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(self.here)))
            self.addCleanup(files.server_close)
            self.addCleanup(files.shutdown)
            Thread(target=files.serve_forever, daemon=True).start()
            page = self.page()
            commands = [command for command, _ in tutorial.sessions() if "answers/2" in command]
            create, append = (
                f"export DURABLE_STREAMS_URL={server.url}; {command}" for command in commands
            )
            run_program(self.here, "sh", "-c", create)
            page.goto(f"http://localhost:{files.server_port}/page.html")
            expect(page.locator("#state")).to_have_text("live")
            appending = Thread(target=run_program, args=(self.here, "sh", "-c", append))
            appending.start()
            answer = page.locator("#answer")
            expect(answer).to_contain_text("You asked:")
            page.reload()
            expect(page.locator("#state")).to_have_text("complete")
            appending.join()
            text = "You asked: Why streams? A stream keeps each of my words, so reload this page. "
            self.assertEqual(answer.text_content(), text)
