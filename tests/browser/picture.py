"""Take pictures of the console.

``python -m tests.browser.picture`` takes those of the documentation. With a directory it takes
every state at two sizes in both colour schemes, for a person to look at.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from itertools import chain
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.chromium import OPTIONS, program
from tests.browser.console_states import (
    CHAT,
    DESKTOP,
    JSON,
    PHONE,
    SCHEMES,
    SIZES,
    fill,
    visit_other_states,
    visit_states,
)
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


def serve(folder: Path, *options: str) -> Foreground:
    """Return a server with a console."""
    listen = ("--listen", "tcp:0:interface=127.0.0.1")
    return Foreground(folder, "durable-streams", "--console", *listen, *options)


def take_for_docs(browser: Browser, port: int) -> None:
    """Take the pictures of the documentation."""
    page = browser.new_page(color_scheme="light", viewport=DESKTOP)
    follow(page, port)
    page.screenshot(path=DOCS / "console.png")
    page.goto(f"{url(port)}/-/console#/server")
    expect(page.locator("#subscriptions-rows tr")).to_have_count(2)
    page.screenshot(path=DOCS / "console-server.png")
    phone = browser.new_page(color_scheme="dark", viewport=PHONE)
    phone.goto(f"{url(port)}/-/console#jobs%2Fimport")
    phone.locator("#view").select_option("lines")
    expect(phone.locator(".row")).to_have_count(3)
    phone.screenshot(path=DOCS / "console-phone.png")


def take_states(browser: Browser, port: int, folder: Path, target: Path) -> None:
    """Take each state at each size in each scheme, as ``STATE-WIDTH-SCHEME.png``."""
    token = "an-operator-s-token"
    (folder / "tokens.toml").write_text(
        f'[tokens.reader]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
        'grants = [{path = "chat/", verbs = ["create", "read", "list"]}]\n'
    )
    target.mkdir(parents=True, exist_ok=True)
    with serve(folder) as empty, serve(folder, "--auth", "file:tokens.toml") as guarded:
        bearer = f"Bearer {token}"
        ask(guarded.port, "PUT", "chat/1", b'"hello"', JSON, Authorization=bearer)
        for size in SIZES:
            page = browser.new_page(color_scheme="light", viewport=size)
            states = visit_states(page, port)
            others = visit_other_states(page, empty.port, guarded.port, token)
            for name in chain(states, others):
                for scheme in SCHEMES:
                    page.emulate_media(color_scheme=scheme)
                    file = f"{re.sub('[^a-zA-Z]+', '-', name)}-{size['width']}-{scheme}.png"
                    page.screenshot(path=target / file)
                page.emulate_media(color_scheme="light")
            page.close()


def take(target: Path | None) -> None:
    """Take the pictures of all states into ``target``, or those of the documentation."""
    with (
        tempfile.TemporaryDirectory(prefix="durable-streams-") as name,
        serve(folder := Path(name), "--data-dir", "data") as server,
        sync_playwright() as playwright,
    ):
        fill(server.port)
        browser = playwright.chromium.launch(executable_path=program(), args=OPTIONS)
        if target is None:
            take_for_docs(browser, server.port)
        else:
            take_states(browser, server.port, folder, target)
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
