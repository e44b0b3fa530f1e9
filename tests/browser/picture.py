"""Screenshot of the console for the documentation: python -m tests.browser.picture"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import expect, sync_playwright

from tests.browser.chromium import OPTIONS, program
from tests.browser.pages import url
from tests.service.black_box import Foreground, ask

PICTURE = Path(__file__).parents[2] / "docs" / "console.png"
JSON = "application/json"
TEXT = "text/plain"
CHAT = (
    b'{"from":"ada","text":"Is the import done?"}',
    b'{"from":"bo","text":"Two of three files. The last one is large."}',
    b'{"from":"ada","text":"Thanks. Ping me when it is there.","seen":["bo","cy"]}',
    b'{"from":"bo","text":"It is there: 1,204,331 rows, none refused.","took_s":418.2}',
    b'{"from":"cy","text":"Then the nightly job can start.","id":9007199254740993}',
)
STREAMS = {
    "chat/41": (JSON, b'["hello"]'),
    "chat/42": (JSON, b""),
    "chat/43": (JSON, b""),
    "jobs/import": (TEXT, b"file 1 of 3: 401,110 rows\n" * 40),
    "llm/answers/7f3a": (TEXT, b"A durable stream is a URL with a log behind it. " * 12),
    "metrics/frames": ("application/octet-stream", bytes(range(256)) * 300),
    "sensors/roof/temperature": (JSON, b'[{"c":11.4},{"c":11.2}]'),
}


def fill(port: int) -> None:
    """Create the streams of the screenshot."""
    for name, (content_type, body) in STREAMS.items():
        ask(port, "PUT", name, body, content_type)
    for message in CHAT[:3]:
        ask(port, "POST", "chat/42", message, JSON)
    ask(port, "PUT", "chat/42-what-if", b"", JSON, Stream_Forked_From="/v1/stream/chat/42")
    ask(port, "PUT", "jobs/nightly", b"started\ndone\n", TEXT, Stream_Closed="true")


def picture(path: Path, scheme: Literal["light", "dark"] = "light") -> None:
    """Save a screenshot of a console that follows a stream."""
    with (
        tempfile.TemporaryDirectory(prefix="durable-streams-") as folder,
        Foreground(
            Path(folder),
            *("durable-streams", "--console", "--listen", "tcp:0:interface=127.0.0.1"),
        ) as server,
        sync_playwright() as playwright,
    ):
        fill(server.port)
        browser = playwright.chromium.launch(executable_path=program(), args=OPTIONS)
        page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 720})
        page.goto(f"{url(server.port)}/-/console#chat%2F42")
        expect(page.locator("#live-text")).to_have_text("live")
        for message in CHAT[3:]:
            ask(server.port, "POST", "chat/42", message, JSON)
        expect(page.locator("#tail .entry")).to_have_count(len(CHAT))
        page.get_by_role("button", name="Refresh").click()
        page.get_by_label("What to append").fill('{"from":"ada","text":"Go ahead."}')
        # Numbers are asked for every three seconds, and rates need two of them.
        page.wait_for_timeout(4_000)
        page.screenshot(path=path)
        browser.close()
        server.stop()


if __name__ == "__main__":
    picture(PICTURE)
