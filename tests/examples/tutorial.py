"""Parser of docs/tutorial.md."""

from __future__ import annotations

import re
from pathlib import Path

from tests.examples.programs import TOP

PAGE = TOP / "docs" / "tutorial.md"
_FENCE = re.compile(r"```([a-z]+)\n(.*?)```", re.DOTALL)


def blocks(kind: str) -> list[str]:
    """Return the code blocks of one language."""
    return [text for named, text in _FENCE.findall(PAGE.read_text("utf-8")) if named == kind]


def write_files(directory: Path, server: str) -> None:
    """Write the files of the tutorial, with the URL of the test's server."""
    (model,) = blocks("python")
    (page,) = blocks("html")
    (directory / "model.py").write_text(model.replace("0.2", "0.05"), "utf-8")
    (directory / "page.html").write_text(with_server_url(page, server), "utf-8")


def with_server_url(text: str, server: str) -> str:
    """Replace the URL of the tutorial's server."""
    return text.replace("http://localhost:4437/v1/stream/", server)


def sessions() -> list[tuple[str, str]]:
    """Return the commands and their output."""
    found = []
    for block in blocks("console"):
        for part in block.split("$ ")[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found
