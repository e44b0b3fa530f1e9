"""Take the pictures of the console in the documentation: python -m tests.browser.picture"""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.chromium import OPTIONS, program
from tests.browser.console_states import CHAT, DESKTOP, JSON, PHONE, fill
from tests.browser.pages import url
from tests.service.black_box import Foreground, ask

DOCS = Path(__file__).parents[2] / "docs"


def follow(page: Page, port: int) -> None:
    """Open a stream and append to it while it is followed."""
    page.goto(f"{url(port)}/-/console#chat%2F42")
    expect(page.locator("#live-text")).to_have_text("live")
    for message in CHAT[3:]:
        ask(port, "POST", "chat/42", message, JSON)
    expect(page.locator(".row time")).to_have_count(2)
    page.get_by_label("Append", exact=True).fill('{"from":"ada","text":"Go ahead."}')
    # The sparkline has a point every three seconds.
    for _ in range(12):
        page.wait_for_timeout(800)
        ask(port, "POST", "chat/41", b'"."', JSON)


def take() -> None:
    """Take all pictures."""
    with (
        tempfile.TemporaryDirectory(prefix="durable-streams-") as folder,
        Foreground(
            Path(folder),
            *("durable-streams", "--console", "--data-dir", "data"),
            *("--listen", "tcp:0:interface=127.0.0.1"),
        ) as server,
        sync_playwright() as playwright,
    ):
        fill(server.port)
        browser = playwright.chromium.launch(executable_path=program(), args=OPTIONS)
        page = browser.new_page(color_scheme="light", viewport=DESKTOP)
        follow(page, server.port)
        page.screenshot(path=DOCS / "console.png")
        page.goto(f"{url(server.port)}/-/console#/server")
        expect(page.locator("#subscriptions-rows tr")).to_have_count(2)
        page.screenshot(path=DOCS / "console-server.png")
        phone = browser.new_page(color_scheme="dark", viewport=PHONE)
        phone.goto(f"{url(server.port)}/-/console#jobs%2Fimport")
        phone.locator("#view").select_option("lines")
        expect(phone.locator(".row")).to_have_count(3)
        phone.screenshot(path=DOCS / "console-phone.png")
        browser.close()
        server.stop()


if __name__ == "__main__":
    take()
