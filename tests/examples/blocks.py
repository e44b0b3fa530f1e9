"""Fenced blocks of the documentation."""

from __future__ import annotations

import re
from functools import cache

from msgspec import Struct

from tests.examples.programs import TOP

_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_INCLUDE = "{literalinclude}"


class Block(Struct, frozen=True):
    """Fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def pages() -> list[str]:
    """Return the pages that readers copy from, as paths from the top of the checkout."""
    top = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "newsfragments/README.md")
    below = (path for folder in ("docs", "examples") for path in (TOP / folder).rglob("*.md"))
    return [*top, *sorted(str(path.relative_to(TOP)) for path in below)]


@cache
def blocks(page: str, language: str = "", containing: str = "") -> list[Block]:
    """Return the blocks of a page in order: those of a language, or with a text.

    Directives of the site are left out, except included files.
    """
    text = (TOP / page).read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        kind, content = match.groups()
        if kind.startswith(_INCLUDE):
            kind, content = "include", kind.removeprefix(_INCLUDE).strip()
        if kind.startswith("{") or (language and kind != language) or containing not in content:
            continue
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, kind, content))
    return found


def one(page: str, language: str, containing: str = "") -> str:
    """Return the text of the only block of a page that matches."""
    (block,) = blocks(page, language, containing)
    return block.text
