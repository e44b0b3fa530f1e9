"""Tests of the console in a browser, by its visible elements."""

from __future__ import annotations

import hashlib
import json
import re
import time
from http.client import HTTPConnection

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, ViewportSize, expect

from tests.browser.console_states import SIZES, fill, visit_states
from tests.browser.pages import PATIENCE, BrowserTestCase, url
from tests.postgres.cluster import shared_cluster
from tests.service.black_box import Foreground, ask

JSON = "application/json"
TOKENS = """
[tokens.reader]
sha256 = "{digest}"
grants = [{{ path = "chat/", verbs = ["read", "list", "create"] }}]
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
            page.keyboard.type("AT/4")
            expect(listed).to_have_count(2)
            page.keyboard.press("ArrowDown")
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
            expect(page.locator("#stream-name")).to_have_text("chat/42")
            # The newest first, and as written where a browser's numbers would be rounded.
            expect(page.locator(".body")).to_have_text(['"a,b"', '{"n": 9007199254740993}'])
            expect(page.locator(".row time")).to_have_count(0)
            expect(page.locator("#live-text")).to_have_text("live")
            self.post(server.port, "chat/42", JSON, b'"news"')
            self.post(server.port, "chat/42", JSON, b'["more"]')
            expected = ['"more"', '"news"', '"a,b"', '{"n": 9007199254740993}']
            expect(page.locator(".body")).to_have_text(expected)
            expect(page.locator(".row time")).to_have_count(2)
            page.reload()
            expect(page.locator(".body")).to_have_text(expected)
            page.go_back()
            expect(page.get_by_role("heading", name="Server", exact=True)).to_be_visible()
            server.stop()
        self.assert_clean(server.log)

    def test_lifecycle(self) -> None:
        """The console creates a stream, appends to it, forks it, closes it and deletes it."""
        path = "a%20b/%C3%BC%3F%23%25"
        with self.serve() as server:
            page = self.console(server.port)
            dialog = page.get_by_role("dialog")
            expect(page.locator("#list-empty")).to_have_text("There are no streams yet.")
            page.get_by_role("button", name="New stream").click()
            page.get_by_label("Name", exact=True).fill("a b/ü?#%")
            page.get_by_label("Content type").fill("text/plain")
            page.get_by_role("button", name="Create").click()
            expect(page.locator("#stream-name")).to_have_text("a b/ü?#%")
            expect(page.locator("#live-text")).to_have_text("live")
            page.get_by_label("Append", exact=True).fill("first\nsecond")
            page.keyboard.press("Control+Enter")
            expect(page.locator(".body")).to_have_text(["first\nsecond"])
            page.get_by_label("Append", exact=True).fill("third")
            page.get_by_label("+ newline").check()
            page.get_by_role("button", name="Append", exact=True).click()
            # A row for each append, also after a reload.
            expect(page.locator(".body")).to_have_text(["first\nsecond", "third"])
            page.reload()
            expect(page.locator(".body")).to_have_text(["first\nsecond", "third"])
            page.locator("#view").select_option("lines")
            expect(page.locator(".body")).to_have_text(["first", "secondthird"])
            self.assertEqual(ask(server.port, "GET", path)[1], b"first\nsecondthird\n")
            with page.expect_download() as downloading:
                page.get_by_role("button", name="Download").click()
            self.assertEqual(downloading.value.path().read_bytes(), b"first\nsecondthird\n")
            page.get_by_role("button", name="Fork").click()
            page.get_by_label("Name", exact=True).fill("other")
            dialog.get_by_role("button", name="Create").click()
            expect(page.locator("#facts")).to_contain_text("Fork of")
            expect(page.locator(".body")).to_have_count(2)
            page.go_back()
            page.get_by_role("button", name="Close stream").click()
            dialog.get_by_role("button", name="Close stream").click()
            expect(page.locator("#live-text")).to_have_text("closed")
            expect(page.locator("#append-form")).to_be_hidden()
            page.get_by_role("button", name="Delete", exact=True).click()
            page.get_by_role("button", name="Cancel").click()
            self.assertEqual(ask(server.port, "HEAD", path)[0], 200)
            page.get_by_role("button", name="Delete", exact=True).click()
            dialog.get_by_role("button", name="Delete stream").click()
            expect(page.locator("#list-count")).to_have_text("1 stream")
            self.assertEqual(ask(server.port, "HEAD", path)[0], 410)
            server.stop()

    def test_errors(self) -> None:
        """Errors are shown next to their cause, keep the typed text, and go once it is mended."""
        with self.serve() as server:
            self.put(server.port, "a", JSON)
            page = self.console(server.port, "a")
            body = page.get_by_label("Append", exact=True)
            body.fill("{no json")
            page.get_by_role("button", name="Append", exact=True).click()
            expect(page.locator("#append-error")).to_contain_text("400")
            expect(body).to_have_value("{no json")
            body.fill("{}")
            page.get_by_role("button", name="Append", exact=True).click()
            expect(page.locator(".body")).to_have_text(["{}"])
            expect(page.locator("#append-error")).to_be_hidden()
            # A name that is taken by a stream of another type.
            page.get_by_role("button", name="New stream").click()
            page.get_by_label("Name", exact=True).fill("a")
            page.get_by_label("Content type").fill("text/plain")
            page.get_by_role("button", name="Create").click()
            expect(page.locator("#new-error")).to_contain_text("409")
            page.get_by_label("Name", exact=True).fill("b")
            page.get_by_role("button", name="Create").click()
            expect(page.locator("#stream-name")).to_have_text("b")
            page.locator("#jump").fill("7_0")
            page.locator("#jump-form button").click()
            expect(page.locator("#stream-error")).to_contain_text("The offset belongs to another")
            page.get_by_role("button", name="Go to the newest").click()
            expect(page.locator("#live-text")).to_have_text("live")
            expect(page.locator("#stream-error")).to_be_hidden()
            server.stop()

    def test_missing_stream(self) -> None:
        """A missing stream opens when it is created, and again after it was deleted."""
        with self.serve() as server:
            page = self.console(server.port, "later")
            expect(page.locator("#stream-missing")).to_contain_text("There is no such stream")
            self.put(server.port, "later", JSON, b'"first"')
            expect(page.locator(".body")).to_have_text(['"first"'])
            ask(server.port, "DELETE", "later")
            expect(page.locator("#stream-missing")).to_contain_text("was deleted")
            page.get_by_role("button", name="Create it").click()
            page.get_by_role("button", name="Create", exact=True).click()
            expect(page.locator("#rows-empty")).to_be_visible()
            self.post(server.port, "later", JSON, b'"second"')
            expect(page.locator(".body")).to_have_text(['"second"'])
            server.stop()

    def test_content_is_escaped(self) -> None:
        """Content and names of streams are shown as text, never as HTML."""
        evil = b"<img src=x onerror=alert(1)><script>alert(2)</script>"
        with self.serve() as server:
            self.put(server.port, "%3Cimg%20src=x%3E", "text/plain", evil)
            self.put(server.port, "bytes", "application/octet-stream", b"\x00<b>\xff")
            page = self.console(server.port, "%3Cimg%20src=x%3E")
            expect(page.locator(".body")).to_have_text([evil.decode()])
            expect(page.locator("#stream-name")).to_have_text("<img src=x>")
            self.assertEqual(page.locator("img").count(), 0)
            page.locator("#streams button", has_text="bytes").click()
            expect(page.locator(".body")).to_have_text("0000000000 3c 62 3e ff.<b>.")
            server.stop()

    def test_backwards(self) -> None:
        """A long stream shows its end, and earlier pages on request, whatever it contains."""
        line = b"%05d \x1b[1;31mred\x1b[0m " + b"x" * 45 + b"\n"
        log = b"".join(line % number for number in range(10_000))
        message = b'{"n":%d,"text":"a \\"},{\\" b\\\\","list":[1,[2]],"long":"' + b"y" * 300 + b'"}'
        large = b'"' + b"z," * 150_000 + b'"'
        messages = [message % number for number in range(1_000)]
        messages.insert(500, large)
        with self.serve() as server:
            self.put(server.port, "log", "text/plain", log)
            self.put(server.port, "json", JSON, b"[" + b",".join(messages) + b"]")
            page = self.console(server.port, "log")
            page.locator("#view").select_option("lines")
            rows = page.locator(".row")
            expect(rows.last).to_contain_text("09999 red xxx")
            expect(rows.last).to_be_in_viewport()
            expect(rows.last.locator(".f1.bold")).to_have_text("red")
            before = rows.count()
            page.locator("#earlier").click()
            page.wait_for_function(
                "before => document.querySelectorAll('.row').length > before", arg=before
            )
            page.locator("#newest-first").check()
            expect(rows.first).to_contain_text("09999 red xxx")
            page.goto(f"{url(server.port)}/-/console#json")
            expect(rows.first).to_contain_text('"n": 999')
            # Every message once, with the large one that no single request could read.
            page.locator("#filter").fill("nothing has this text")
            expect(page.locator("#earlier")).to_be_hidden()
            expect(rows).to_have_count(1_001)
            expect(page.locator(".row:visible")).to_have_count(0)
            page.locator("#filter").fill("n>=41 n<43 red")
            expect(page.locator(".row:visible")).to_have_count(0)
            page.locator("#filter").fill("n>=41 n<43 Y")
            expect(page.locator(".row:visible")).to_have_count(2)
            page.locator("#filter").fill("z,z,")
            expect(page.locator(".row:visible")).to_have_count(1)
            # An offset in the middle: rows from there on, until the end is asked for.
            page.locator("#filter").fill("")
            page.locator("#rows").evaluate("rows => rows.scrollTo(0, rows.scrollHeight)")
            begin = page.locator(".row", has_text='"n": 7,').locator(".at").text_content()
            page.locator("#jump").fill(f"0_{begin}")
            page.locator("#jump-form button").click()
            expect(page.locator(".row", has_text='"n": 7,')).to_be_in_viewport()
            expect(page.locator("#live-text")).to_have_text("paused")
            page.locator("#to-newest").click()
            expect(rows.first).to_contain_text('"n": 999')
            expect(page.locator("#live-text")).to_have_text("live")
            page.go_back()
            expect(page.locator("#live-text")).to_have_text("paused")
            page.locator("#later").click()
            expect(rows.first).to_contain_text('"n": 999')
            expect(page.locator("#live-text")).to_have_text("live")
            server.stop()

    def test_many_streams(self) -> None:
        """A list of many streams is searched, sorted, shown as a tree, and refreshes itself."""
        with self.serve() as server:
            for number in range(250):
                # Append times are in milliseconds, and the last stream must have the latest.
                time.sleep(0.002 if number == 249 else 0)
                self.put(server.port, f"s/{number:03}/x", "text/plain", b"x" * (number % 100))
            page = self.console(server.port)
            listed = page.locator("#streams button")
            expect(page.locator("#list-count")).to_have_text("the first 200")
            page.locator("#list-scroll").evaluate("list => list.scrollTo(0, list.scrollHeight)")
            expect(listed).to_have_count(250)
            page.locator("#order").select_option("size")
            expect(listed.first).to_contain_text("s/099/x")
            page.locator("#order").select_option("active")
            expect(listed.first).to_contain_text("s/249/x")
            self.put(server.port, "z", JSON)
            expect(listed.first).to_contain_text("z")
            page.locator("#order").select_option("tree")
            expect(listed).to_have_text([re.compile("^s/"), re.compile("^z")])
            listed.first.click()
            expect(listed).to_have_count(252)
            page.locator("button[title='s/007/']").click()
            expect(page.locator("button[title='s/007/x']")).to_be_visible()
            page.locator("#search").fill("07/X")
            expect(listed).to_have_count(3)
            server.stop()

    def test_statistics(self) -> None:
        """The console draws the last minutes of the server and lists its subscriptions."""
        hook = {"type": "webhook", "pattern": "a", "webhook": {"url": "http://127.0.0.1:9/x"}}
        with self.serve("--data-dir", "data") as server:
            page = self.console(server.port, viewport={"width": 1300, "height": 800})
            cards = page.locator(".card")
            expect(page.locator("#about")).to_contain_text("LMDB")
            expect(cards.first.locator("dd")).to_have_text("0")
            self.put(server.port, "a", JSON)
            ask(server.port, "PUT", "__ds/subscriptions/mail", json.dumps(hook).encode(), JSON)
            self.post(server.port, "a", JSON, b"1")
            expect(cards.first.locator("dd")).not_to_have_text("0")
            expect(cards.first.locator(".line")).to_have_attribute("d", re.compile("^M[\\d.]+ .*L"))
            expect(cards.last.locator("dd")).to_have_text(re.compile(r"^[\d.,]+ ms$"))
            expect(page.locator("#subscriptions-rows tr")).to_contain_text("failing")
            expect(page.locator("#subscriptions-rows tr")).to_contain_text("refused")
            expect(page.locator("#health-text")).to_have_text("ready")
            page.close()
            server.stop()

    def test_nodes(self) -> None:
        """The console of a server on PostgreSQL shows the number of nodes."""
        cluster = shared_cluster()
        database = ("--unsafe-database", "--database", cluster.url(cluster.create_database()))
        with self.serve(*database) as server, self.serve(*database) as other:
            page = self.console(server.port)
            expect(page.locator("#about")).to_contain_text("PostgreSQL, 2 nodes")
            page.close()
            other.stop()
            server.stop()

    def test_other_root(self) -> None:
        """The console works with another root and with the server of twisted.web."""
        with self.serve("--root", "/logs", "--no-fast-channel") as server:
            page = self.console(server.port, "a")
            page.get_by_role("button", name="Create it").click()
            page.get_by_role("button", name="Create", exact=True).click()
            expect(page.locator("#live-text")).to_have_text("live")
            page.get_by_label("Append", exact=True).fill('"x"')
            page.keyboard.press("Control+Enter")
            expect(page.locator(".body")).to_have_text(['"x"'])
            connection = HTTPConnection("127.0.0.1", server.port)
            connection.request("GET", "/logs/a")
            self.assertEqual(connection.getresponse().read(), b'["x"]')
            connection.close()
            page.close()
            server.stop()

    def test_restart(self) -> None:
        """A followed stream continues after a restart of the server, without duplicates."""
        data = ("--data-dir", "data")
        with self.serve(*data) as server:
            port = server.port
            self.put(port, "a", JSON, b'"before"')
            page = self.console(port, "a")
            expect(page.locator(".body")).to_have_text(['"before"'])
            expect(page.locator("#live-text")).to_have_text("live")
            server.stop()
        expect(page.locator("#live-text")).to_have_text("The server does not respond; reconnecting")
        with self.serve(*data, "--listen", f"tcp:{port}:interface=127.0.0.1") as server:
            self.post(port, "a", JSON, b'"after"')
            expect(page.locator(".body")).to_have_text(['"after"', '"before"'])
            expect(page.locator("#live-text")).to_have_text("live")
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
            expect(page.locator("#list-error")).to_have_text(
                "A valid token is needed: enter it under Token."
            )
            expect(page.locator("#list-empty")).to_be_hidden()
            page.locator("summary", has_text="Token").click()
            page.get_by_label("Bearer token").fill("an-operator-s-token")
            page.get_by_role("button", name="Use").click()
            expect(page.locator("#list-error")).to_contain_text("does not allow")
            page.locator("#search").fill("chat/")
            expect(page.locator("#list-empty")).to_have_text("No stream matches.")
            expect(page.locator("#list-error")).to_be_hidden()
            page.get_by_role("button", name="New stream").click()
            page.get_by_role("button", name="Create", exact=True).click()
            page.get_by_label("Name", exact=True).fill("chat/1")
            page.get_by_role("button", name="Create", exact=True).click()
            expect(page.locator("#stream-name")).to_have_text("chat/1")
            expect(page.locator("#live-text")).to_have_text("live")
            page.reload()
            expect(page.locator("#live-text")).to_have_text("live")
            page.goto(f"{url(server.port)}/-/console#other")
            expect(page.locator("#stream-error")).to_contain_text("does not allow")
            page.close()
            server.stop()
        self.assertNotIn("an-operator-s-token", server.log)


class TabTests(ConsoleTestCase):
    """Many tabs of one browser."""

    def test_twelve_tabs(self) -> None:
        """Twelve tabs follow their streams over one connection, which another takes over."""
        with self.serve() as server:
            context = self.page().context
            tabs = []
            for number in range(12):
                self.put(server.port, f"s{number}", JSON, b'"old"')
                tabs.append(context.new_page())
                tabs[-1].goto(f"{url(server.port)}/-/console#s{number}")
            for tab in tabs:
                expect(tab.locator("#live-text")).to_have_text("live")
            self.append_to_all(server.port, tabs, "one")
            tabs.pop(0).close()
            tabs[0].get_by_label("Append", exact=True).fill('"typed"')
            tabs[0].get_by_role("button", name="Append", exact=True).click()
            expect(tabs[0].locator(".body").first).to_have_text('"typed"')
            self.append_to_all(server.port, tabs, "two")
            # A hidden tab has no connection; a visible one catches up.
            for tab in tabs:
                tab.evaluate(SHOW, False)
            tabs[5].evaluate(WATCH)
            self.post(server.port, "s6", JSON, b'"while hidden"')
            tabs[5].wait_for_timeout(500)
            self.assertEqual(tabs[5].evaluate("window.requests"), [])
            tabs[5].evaluate(SHOW, True)
            expect(tabs[5].locator(".body").first).to_have_text('"while hidden"')
            for tab in tabs:
                tab.close()
            server.stop()
        self.assert_clean(server.log)

    def append_to_all(self, port: int, tabs: list[Page], text: str) -> None:
        """Append to the stream of each tab and wait until it is shown."""
        for tab in tabs:
            self.post(port, tab.url.partition("#")[2], JSON, f'"{text}"'.encode())
        for tab in tabs:
            expect(tab.locator(".body").first).to_have_text(f'"{text}"')

    def test_phone(self) -> None:
        """On a phone a user finds, follows and appends without scrolling the page."""
        with self.serve() as server:
            self.put(server.port, "chat", JSON, b"[" + b",".join([b'"hello"'] * 300) + b"]")
            page = self.console(
                server.port, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
            )
            page.locator("#streams button").tap()
            expect(page.locator("#live-text")).to_have_text("live")
            expect(page.locator(".list-pane")).to_be_hidden()
            page.get_by_label("Append", exact=True).fill('"from a phone"')
            page.get_by_role("button", name="Append", exact=True).tap()
            expect(page.locator(".body").first).to_have_text('"from a phone"')
            expect(page.locator(".row").first).to_be_in_viewport()
            expect(page.locator("#append")).to_be_in_viewport(ratio=1)
            size: list[int] = page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
            )
            self.assertEqual(size, [390, 844])
            page.get_by_role("link", name="Back to the list").tap()
            expect(page.locator("#streams button")).to_be_visible()
            page.get_by_role("link", name="Server").tap()
            expect(page.locator(".card").first).to_be_visible()
            server.stop()


# Pretend that a tab is hidden or visible: a headless browser shows all tabs.
SHOW = """
(visible) => {
  Object.defineProperty(document, "hidden", { value: !visible, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""
WATCH = """
() => {
  const send = window.fetch;
  window.requests = [];
  window.fetch = (url, options) => (window.requests.push(url), send(url, options));
}
"""


class StateTests(ConsoleTestCase):
    """States of the console in both colour schemes and at two sizes."""

    def test_accessible(self) -> None:
        """axe-core finds nothing, and no element is wider than the page."""
        with self.serve("--data-dir", "data") as server:
            fill(server.port)
            for size in SIZES:
                page = self.page(color_scheme="light", viewport=size)
                for name in visit_states(page, server.port):
                    self.check_rules(page, name, size, {})
                    # The schemes differ in colours only.
                    page.emulate_media(color_scheme="dark")
                    self.check_rules(page, name, size, {"runOnly": ["color-contrast"]})
                    page.emulate_media(color_scheme="light")
                    wide: int = page.evaluate("document.documentElement.scrollWidth")
                    self.assertLessEqual(wide, size["width"], (name, size))
                page.close()
            server.stop()

    def check_rules(
        self, page: Page, name: str, size: ViewportSize, options: dict[str, object]
    ) -> None:
        """Run axe-core on the page."""
        found = Axe().run(page, options={"resultTypes": ["violations"], **options})
        report = found.generate_report() if found.violations_count else ""
        self.assertEqual(found.violations_count, 0, (name, size, report))
