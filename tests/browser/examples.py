"""Tests of the pages that examples and documentation have, with reloads and lost responses."""

from __future__ import annotations

import re
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from playwright.sync_api import Page, Route, expect

from tests.browser.pages import PATIENCE, BrowserTestCase
from tests.examples import tutorial
from tests.examples.blocks import one
from tests.examples.programs import EXAMPLES, RunningProgram, run_program
from tests.examples.test_examples import ANSWER, QUESTION
from tests.service.black_box import new_directory

CHAT = "docs/how-to/browsers.md"

expect.set_options(timeout=PATIENCE)


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing."""


class ReloadTests(BrowserTestCase):
    """A reloaded page shows every token once."""

    def setUp(self) -> None:
        super().setUp()
        self.here = new_directory(self)

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

    def serve_files(self) -> str:
        """Serve the files of the directory from another origin; return its URL."""
        files = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(self.here)))
        self.addCleanup(files.server_close)
        self.addCleanup(files.shutdown)
        Thread(target=files.serve_forever, daemon=True).start()
        return f"http://localhost:{files.server_port}"

    def test_tutorial(self) -> None:
        with RunningProgram(self.here, "durable-streams-server", "dev", "--port", "0") as server:
            tutorial.write_files(self.here, server.url)
            origin = self.serve_files()
            page = self.page()
            commands = [command for command, _ in tutorial.sessions() if "answers/2" in command]
            create, append = (
                f"export DURABLE_STREAMS_URL={server.url}; {command}" for command in commands
            )
            run_program(self.here, "sh", "-c", create)
            page.goto(f"{origin}/page.html")
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

    def test_chat(self) -> None:
        """Messages of one page appear in another, once, also if a response is lost."""
        plain = one(CHAT, "html")
        retrying = re.sub(
            r"  async function append.*?\n  }\n",
            lambda _: one(CHAT, "javascript"),
            plain,
            flags=re.S,
        )
        create = one(CHAT, "console").splitlines()[0].removeprefix("$ ")
        with RunningProgram(self.here, "durable-streams-server", "dev", "--port", "0") as server:
            for name, text in (("plain.html", plain), ("retrying.html", retrying)):
                text = text.replace("http://localhost:4437/v1/stream/", server.url)
                (self.here / name).write_text(text, "utf-8")
            run_program(self.here, "sh", "-c", f"export DURABLE_STREAMS_URL={server.url}; {create}")
            origin = self.serve_files()
            one_page, other = self.page(), self.page()
            one_page.goto(f"{origin}/plain.html")
            other.goto(f"{origin}/retrying.html")
            self.send(one_page, "first")
            expect(other.get_by_role("listitem")).to_have_text(["first"])
            lost: list[str] = []

            def lose(route: Route) -> None:
                lost.append(route.fetch().status_text)
                route.abort()

            other.route("**/chat/1", lose, times=1)
            for text in ("second", "third"):
                self.send(other, text)
            for page in (one_page, other):
                expect(page.get_by_role("listitem")).to_have_text(["first", "second", "third"])
            self.assertEqual(lost, ["OK"])

    def send(self, page: Page, text: str) -> None:
        """Send a message and wait until the page has it acknowledged."""
        page.get_by_label("Message").fill(text)
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_label("Message")).to_have_value("")
