"""Commands and output in the ``console`` blocks of a page, and their comparison with a shell."""

from __future__ import annotations

import re

from msgspec import Struct

_FENCE = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Values that differ in each run. Offsets with a zero incarnation are the same in all of them.
_VARIABLE = (
    (re.compile(r"\b[0-9]{20}_([0-9]{16})\b"), r"OFFSET_\1"),
    (re.compile(r'"[0-9]+:([0-9]+:[0-9]+)'), r'"ID:\1'),
    (re.compile(r"^Date: .*$", re.MULTILINE), "Date: D"),
    (re.compile(r"^retry:[0-9]+$", re.MULTILINE), "retry:N"),
    (re.compile(r'"streamCursor":"[0-9]+"'), '"streamCursor":"N"'),
    (re.compile(r"localhost:[0-9]+|127\.0\.0\.1:[0-9]+"), "HOST"),
)


class Command(Struct, frozen=True):
    """Command of a page, and the output that the page shows after it."""

    line: str
    output: str


def commands(page: str) -> list[Command]:
    """Return the commands of a page in order."""
    found = []
    for block in _FENCE.findall(page):
        for part in block.split("$ ")[1:] if block.startswith("$ ") else []:
            line, _, output = part.replace("\\\n", "").partition("\n")
            found.append(Command(line, output))
    return found


def matches(expected: str, output: str) -> bool:
    """Return whether a command's output is the one of the page.

    ``...`` stands for any text, and values that differ in each run are equal.
    """
    pieces = [re.escape(piece) for piece in normalized(expected).split("...")]
    pattern = r"[\s\S]*".join(pieces)
    return re.fullmatch(pattern, normalized(output)) is not None


def normalized(text: str) -> str:
    """Return a text without the values that differ in each run, and without carriage returns."""
    text = text.replace("\r", "")
    for pattern, replacement in _VARIABLE:
        text = pattern.sub(replacement, text)
    return text.rstrip("\n")
