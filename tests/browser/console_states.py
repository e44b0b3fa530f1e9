"""States of the console, for tests and for the pictures in the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, Literal

from playwright.sync_api import Page, ViewportSize, expect

from tests.browser.pages import url
from tests.service.black_box import ask

SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
DESKTOP: Final[ViewportSize] = {"width": 1280, "height": 800}
PHONE: Final[ViewportSize] = {"width": 390, "height": 844}
SIZES: Final = (DESKTOP, PHONE)

JSON: Final = "application/json"
TEXT: Final = "text/plain"
CHAT: Final = (
    b'{"from":"ada","text":"Is the import done?"}',
    b'{"from":"bo","text":"Two of three files. The last one is large."}',
    b'{"from":"ada","text":"Thanks. Ping me when it is there.","seen":["bo","cy"]}',
    b'{"from":"bo","text":"It is there: 1,204,331 rows, none refused.","took_s":418.2}',
    b'{"from":"cy","text":"Then the nightly job can start.","id":9007199254740993}',
)
LOG: Final = b"".join(
    b"%s file %d of 3: \x1b[1m401,110\x1b[0m rows in \x1b[36m%d s\x1b[0m\n"
    % (level, number, number * 17)
    for number, level in enumerate(
        (b"\x1b[32mINFO \x1b[0m", b"\x1b[33mWARN \x1b[0m", b"\x1b[41mERROR\x1b[0m"), 1
    )
)
STREAMS: Final = {
    "chat/41": (JSON, b'["hello"]'),
    "chat/42": (JSON, b""),
    "chat/43": (JSON, b""),
    "jobs/import": (TEXT, LOG),
    "llm/answers/7f3a": (TEXT, b"A durable stream is a URL with a log behind it. " * 12),
    "metrics/frames": ("application/octet-stream", bytes(range(256)) * 5),
    "sensors/roof/temperature": (JSON, b'[{"c":11.4},{"c":11.2}]'),
    "a/" + "long-name-" * 20: (JSON, b'"x"'),
}
SUBSCRIPTIONS: Final = {
    "mail": {"type": "webhook", "pattern": "chat/*", "webhook": {"url": "http://127.0.0.1:9/mail"}},
    "index": {"type": "pull-wake", "pattern": "jobs/**", "wake_stream": "wakes"},
}


def fill(port: int) -> None:
    """Create streams and subscriptions."""
    ask(port, "PUT", "wakes", b"", JSON)
    for name, (content_type, body) in STREAMS.items():
        ask(port, "PUT", name, body, content_type)
    for name, config in SUBSCRIPTIONS.items():
        ask(port, "PUT", f"__ds/subscriptions/{name}", json.dumps(config).encode(), JSON)
    for message in CHAT[:3]:
        ask(port, "POST", "chat/42", message, JSON)
    ask(port, "PUT", "chat/42-what-if", b"", JSON, Stream_Forked_From="/v1/stream/chat/42")
    ask(port, "PUT", "jobs/nightly", b"started\ndone\n", TEXT, Stream_Closed="true")


def visit_states(page: Page, port: int) -> Iterator[str]:
    """Bring the page into each state of the console and yield the name of the state."""
    console = f"{url(port)}/-/console"
    page.goto(console)
    expect(page.locator("#health-text")).to_have_text("ready")
    expect(page.locator("#streams button")).to_have_count(len(STREAMS) + 3)
    yield "list"
    page.locator("#order").select_option("tree")
    expect(page.locator("#streams .folder").first).to_be_visible()
    page.locator("#streams .folder", has_text="chat/").click()
    expect(page.locator("#streams button[title='chat/42']")).to_be_visible()
    yield "tree"
    page.locator("#order").select_option("name")
    page.locator("#search").fill("no such stream")
    expect(page.locator("#list-empty")).to_be_visible()
    yield "nothing found"
    page.locator("summary", has_text="Token").click()
    yield "token"
    page.locator("summary", has_text="Token").click()
    page.get_by_role("button", name="New stream").click()
    page.locator("#new-name").fill("bad//name")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#new-error")).to_be_visible()
    yield "new stream, refused"
    page.get_by_role("button", name="Cancel").click()
    page.locator("#search").fill("")
    page.goto(f"{console}#/server")
    expect(page.locator("#subscriptions-rows tr")).to_have_count(2)
    page.locator("summary", has_text="All metrics").click()
    expect(page.locator("#figures div").first).to_be_visible()
    yield "server"
    for name, state in (
        ("chat%2F42", "JSON"),
        ("jobs%2Fimport", "text with colours"),
        ("jobs%2Fnightly", "closed stream"),
        ("metrics%2Fframes", "hex"),
        ("chat%2F43", "empty stream"),
        ("a%2F" + "long-name-" * 20, "long name"),
    ):
        page.goto(f"{console}#{name}")
        expect(page.locator("#live-text")).to_have_text("closed" if "closed" in state else "live")
        yield state
    page.locator("#stream-details").evaluate("details => (details.open = true)")
    page.get_by_role("button", name="Delete", exact=True).click()
    yield "confirmation"
    page.get_by_role("button", name="Cancel").click()
    page.goto(f"{console}#missing")
    expect(page.locator("#stream-missing")).to_be_visible()
    yield "missing stream"
    page.goto(f"{console}#chat%2F42?offset=7_7")
    expect(page.locator("#stream-error")).to_be_visible()
    yield "bad offset"


def visit_other_states(page: Page, empty: int, guarded: int, token: str) -> Iterator[str]:
    """Bring the page into the states of an empty server and of one that needs a token.

    ``empty`` and ``guarded`` are the ports of the servers; at last, the page is offline.
    """
    page.goto(f"{url(empty)}/-/console")
    expect(page.locator("#list-empty")).to_be_visible()
    yield "no streams"
    page.goto(f"{url(guarded)}/-/console")
    expect(page.locator("#list-error")).to_be_visible()
    yield "without token"
    page.locator("summary", has_text="Token").click()
    page.get_by_label("Bearer token").fill(token)
    page.get_by_role("button", name="Use").click()
    page.locator("#search").fill("chat/")
    expect(page.locator("#streams button")).to_have_count(1)
    yield "with token"
    page.goto(f"{url(guarded)}/-/console#chat%2F1")
    expect(page.locator("#live-text")).to_have_text("live")
    page.context.set_offline(True)
    expect(page.locator("#live-text")).not_to_have_text("live")
    yield "disconnected stream"
    page.locator(".back:visible, .views a:visible").first.click()
    expect(page.locator("#health-text")).to_have_text("does not respond")
    yield "disconnected list"
    page.context.set_offline(False)
