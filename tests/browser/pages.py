"""Base of tests in a browser. Errors of a page fail its test."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.browser.chromium import OPTIONS, program
from tests.service.black_box import ROOT
from tests.service.test_twistd import TwistdTestCase

#: Maximum time until an expected change is visible (ms).
PATIENCE = 15_000.0


class BrowserTestCase(TwistdTestCase):
    """Test case with a browser."""

    def setUp(self) -> None:
        super().setUp()
        playwright = sync_playwright().start()
        self.addCleanup(playwright.stop)
        self.browser = playwright.chromium.launch(executable_path=program(), args=OPTIONS)
        self.addCleanup(self.browser.close)

    def page(self, **context: Any) -> Page:
        """Return an empty page in a new browser context.

        Errors on its console, such as violations of the content security policy, fail the test;
        failed requests do not.
        """
        made = self.browser.new_context(**context)
        made.set_default_timeout(PATIENCE)
        self.addCleanup(made.close)
        page: Page = made.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text)
                if said.type == "error" and not said.text.startswith("Failed to load resource")
                else None
            ),
        )
        self.addCleanup(lambda: self.assertEqual(complaints, []))
        return page


def url(port: int, scheme: str = "http") -> str:
    """Return the URL of a server on this machine."""
    return f"{scheme}://localhost:{port}"


def stream(name: str) -> str:
    """Return the path of a stream."""
    return ROOT + name
