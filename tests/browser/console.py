"""Tests of the console in a browser, by its visible elements."""

from __future__ import annotations

import hashlib
import re

from playwright.sync_api import Page, expect

from tests.browser.pages import PATIENCE, BrowserTestCase, url
from tests.service.black_box import Foreground, ask

JSON = "application/json"
TOKENS = """
[tokens.reader]
sha256 = "{digest}"
grants = [{{ path = "chat/", verbs = ["read", "list"] }}]
"""

expect.set_options(timeout=PATIENCE)


class ConsoleTestCase(BrowserTestCase):
    """Test case with a server whose console is enabled."""

    def serve(self, *options: str) -> Foreground:
        """Start a server on a free port."""
        where = () if "--listen" in options else ("--listen", "tcp:0:interface=127.0.0.1")
        return Foreground(self.directory, "durable-streams", "--console", *where, *options)

    def console(self, port: int, name: str = "", **context: object) -> Page:
        """Open the console, optionally on a stream."""
        page = self.page(**context)
        page.goto(f"{url(port)}/-/console" + (f"#{name}" if name else ""))
        return page

    def put(self, port: int, name: str, content_type: str, body: bytes = b"") -> None:
        """Create a stream."""
        self.assertEqual(ask(port, "PUT", name, body, content_type)[0], 201)

    def post(self, port: int, name: str, content_type: str, body: bytes) -> None:
        """Append to a stream."""
        self.assertEqual(ask(port, "POST", name, body, content_type)[0], 204)


class ConsoleTests(ConsoleTestCase):
    """Actions of a user."""

    def test_find_and_follow(self) -> None:
        """The keyboard alone is enough to search, open and follow a stream."""
        with self.serve() as server:
            for name in ("chat/41", "chat/42", "jobs/nightly"):
                self.put(server.port, name, JSON)
            self.post(server.port, "chat/42", JSON, b'[{"n":9007199254740993}, "a,b"]')
            page = self.console(server.port)
            listed = page.locator("#streams button")
            expect(listed).to_have_count(3)
            page.keyboard.press("/")
            page.keyboard.type("chat/")
            expect(listed).to_have_count(2)
            page.keyboard.press("ArrowDown")
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
            expect(page.locator("#stream-name")).to_have_text("chat/42")
            entries = page.locator("#tail .entry span")
            # As they were written, also where a browser's numbers would not do.
            expect(entries).to_have_text(['{"n":9007199254740993}', '"a,b"'])
            self.post(server.port, "chat/42", JSON, b'"news"')
            expect(entries).to_have_count(3)
            expect(page.locator("#live-text")).to_have_text("live")
            page.go_back()
            expect(page.locator("#empty")).to_be_visible()
            server.stop()
        self.assert_clean(server.log)

    def test_lifecycle(self) -> None:
        """The console creates a stream, appends to it, closes it and deletes it."""
        with self.serve() as server:
            page = self.console(server.port)
            expect(page.locator("#list-count")).to_have_text("0 streams")
            page.get_by_role("button", name="New stream").click()
            page.get_by_label("Name", exact=True).fill("a b/ü?#%")
            page.get_by_label("Content type").fill("text/plain")
            page.get_by_role("button", name="Create").click()
            expect(page.locator("#stream-name")).to_have_text("a b/ü?#%")
            expect(page.locator("#live-text")).to_have_text("live")
            page.get_by_label("What to append").fill("first\nsecond")
            page.keyboard.press("Control+Enter")
            expect(page.locator("#tail .entry span")).to_have_text(["first\nsecond"])
            self.assertEqual(ask(server.port, "GET", "a%20b/%C3%BC%3F%23%25")[1], b"first\nsecond")
            page.get_by_role("button", name="Close stream").click()
            page.get_by_role("dialog").get_by_role("button", name="Close").click()
            expect(page.locator("#live-text")).to_have_text("closed")
            expect(page.get_by_label("What to append")).to_be_disabled()
            page.get_by_role("button", name="Delete", exact=True).click()
            page.get_by_role("button", name="Cancel").click()
            self.assertEqual(ask(server.port, "HEAD", "a%20b/%C3%BC%3F%23%25")[0], 200)
            page.get_by_role("button", name="Delete", exact=True).click()
            page.get_by_role("dialog").get_by_role("button", name="Delete").click()
            expect(page.locator("#empty")).to_be_visible()
            expect(page.locator("#list-count")).to_have_text("0 streams")
            self.assertEqual(ask(server.port, "HEAD", "a%20b/%C3%BC%3F%23%25")[0], 404)
            server.stop()

    def test_refused(self) -> None:
        """A refused append shows the server's response and keeps the typed text."""
        with self.serve() as server:
            self.put(server.port, "a", JSON)
            page = self.console(server.port, "a")
            expect(page.locator("#live-text")).to_have_text("live")
            page.get_by_label("What to append").fill("{no json")
            page.get_by_role("button", name="Append").click()
            expect(page.get_by_role("alert").filter(has_text="400")).to_be_visible()
            expect(page.get_by_label("What to append")).to_have_value("{no json")
            server.stop()

    def test_content_is_escaped(self) -> None:
        """Content and names of streams are shown as text, never as HTML."""
        evil = b"<img src=x onerror=alert(1)><script>alert(2)</script>"
        with self.serve() as server:
            self.put(server.port, "%3Cimg%20src=x%3E", "text/plain", evil)
            self.put(server.port, "bytes", "application/octet-stream", b"\x00<b>\xff")
            page = self.console(server.port, "%3Cimg%20src=x%3E")
            expect(page.locator("#tail .entry span")).to_have_text([evil.decode()])
            expect(page.locator("#stream-name")).to_have_text("<img src=x>")
            self.assertEqual(page.locator("img").count(), 0)
            page.locator("#streams button", has_text="bytes").click()
            expect(page.locator("#tail .entry span")).to_have_text(["00 3c 62 3e ff (5 B)"])
            server.stop()

    def test_pages(self) -> None:
        """A long list of streams is loaded page by page."""
        with self.serve() as server:
            for number in range(130):
                self.put(server.port, f"s{number:03}", JSON)
            page = self.console(server.port)
            listed = page.locator("#streams button")
            expect(listed).to_have_count(100)
            page.get_by_role("button", name="Show more").click()
            expect(listed).to_have_count(130)
            expect(page.get_by_role("button", name="Show more")).to_be_hidden()
            server.stop()

    def test_statistics(self) -> None:
        """The console shows the server's statistics and updates them."""
        with self.serve("--data-dir", "data") as server:
            page = self.console(server.port, viewport={"width": 1300, "height": 800})
            row = page.locator("#numbers div")
            commands = row.filter(has=page.locator("dt", has_text=re.compile("^commands$")))
            expect(commands.locator("dd").first).to_have_text("0")
            self.put(server.port, "a", JSON)
            expect(commands.locator("dd").first).to_have_text("1")
            wait = row.filter(has=page.locator("dt", has_text="commit, mean"))
            expect(wait.locator("dd").first).to_have_text(re.compile(r"^[\d.,]+ ms$"))
            expect(page.locator("#health-text")).to_have_text("ready")
            page.close()
            server.stop()

    def test_restart(self) -> None:
        """A followed stream continues after a restart of the server, without duplicates."""
        data = ("--data-dir", "data")
        with self.serve(*data) as server:
            port = server.port
            self.put(port, "a", JSON, b'"before"')
            page = self.console(port, "a")
            entries = page.locator("#tail .entry span")
            expect(entries).to_have_text(['"before"'])
            server.stop()
        expect(page.locator("#live-text")).to_have_text("the server does not respond; reconnecting")
        with self.serve(*data, "--listen", f"tcp:{port}:interface=127.0.0.1") as server:
            self.post(port, "a", JSON, b'"after"')
            expect(entries).to_have_text(['"before"', '"after"'])
            page.close()
            server.stop()

    def test_token(self) -> None:
        """Without a token the console asks for one; with one it shows what the token permits."""
        tokens = self.directory / "tokens.toml"
        digest = hashlib.sha256(b"an-operator-s-token").hexdigest()
        tokens.write_text(TOKENS.format(digest=digest))
        tokens.chmod(0o600)
        with self.serve("--auth", f"file:{tokens}") as server:
            page = self.console(server.port)
            expect(
                page.get_by_role("alert").filter(has_text="valid token is needed")
            ).to_be_visible()
            page.get_by_label("Bearer token").fill("an-operator-s-token")
            page.get_by_role("button", name="Use").click()
            expect(page.get_by_role("alert").filter(has_text="does not allow")).to_be_visible()
            page.locator("#prefix").fill("chat/")
            expect(page.locator("#list-count")).to_have_text("0 streams")
            page.close()
            server.stop()
        self.assertNotIn("an-operator-s-token", server.log)


class SchemeTests(ConsoleTestCase):
    """Colour schemes and widths."""

    def test_contrast(self) -> None:
        """Text has enough contrast in both schemes, and no element is wider than the page."""
        with self.serve() as server:
            self.put(server.port, "a/" + "long-name-" * 20, JSON, b'"x"')
            for scheme in ("light", "dark"):
                for width in (400, 800, 1400):
                    page = self.console(
                        server.port,
                        "a/" + "long-name-" * 20,
                        color_scheme=scheme,
                        viewport={"width": width, "height": 800},
                    )
                    expect(page.locator("#live-text")).to_have_text("live")
                    wide: int = page.evaluate("document.documentElement.scrollWidth")
                    self.assertLessEqual(wide, width)
                    for place in ("#stream-name", "#list-count", "#append", ".entry span"):
                        ratio: float = page.evaluate(CONTRAST, place)
                        self.assertGreaterEqual(ratio, 4.5, (scheme, place))
                    page.close()
            server.stop()


# WCAG 2.1 §1.4.3: the contrast of an element's text with what lies behind it.
CONTRAST = """
(place) => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = rgb(color).map((one) => one / 255)
      .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = document.querySelector(place);
  const text = light(getComputedStyle(behind).color);
  while (rgb(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const ground = light(getComputedStyle(behind).backgroundColor);
  return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
}
"""
