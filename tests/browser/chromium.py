"""Path and options of Chromium for tests."""

from __future__ import annotations

import shutil

#: Chromium requests servers of its vendor at every start unless these options disable it. The
#: sandbox protects from foreign pages, and root cannot use it.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def program() -> str | None:
    """Return the path of Chromium, None if it is not installed."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    return None
