"""docs/tutorial.md, taken apart."""

from __future__ import annotations

import re
from pathlib import Path

from tests.examples.programs import TOP

PAGE = TOP / "docs" / "tutorial.md"
_FENCE = re.compile(r"```([a-z]+)\n(.*?)```", re.DOTALL)


def blocks(kind: str) -> list[str]:
    """What stands between fences of a kind."""
    return [text for named, text in _FENCE.findall(PAGE.read_text("utf-8")) if named == kind]


def write_files(directory: Path, server: str) -> None:
    """The files that the reader is told to write; ``server`` is where the server really is."""
    (model,) = blocks("python")
    (page,) = blocks("html")
    (directory / "model.py").write_text(model.replace("0.2", "0.05"), "utf-8")
    (directory / "page.html").write_text(moved(page, server), "utf-8")


def moved(text: str, server: str) -> str:
    """The same with the server where it really is."""
    return text.replace("http://localhost:4437/v1/stream/", server)


def sessions() -> list[tuple[str, str]]:
    """Commands that the reader types, and what they print."""
    found = []
    for block in blocks("console"):
        for part in block.split("$ ")[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found
