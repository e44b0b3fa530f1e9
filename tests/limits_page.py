"""Page docs/limits.md, generated from the comments ``#: …`` of the limits modules.

``python -m tests.limits_page`` writes it; a test compares.
"""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

_TOP = Path(__file__).parent.parent
PAGE = _TOP / "docs" / "limits.md"
_SOURCE = _TOP / "src"

#: Packages in the order of the page, with their titles.
PACKAGES = {
    "protocol": "Streams, messages and subscriptions",
    "http": "Requests, connections and responses",
    "live": "Live reads",
    "storage": "Storage",
    "storage.engine": "LMDB and write-ahead log",
    "subscriptions": "Webhooks and tokens of subscriptions",
    "auth": "Authentication and rate limits",
    "outgoing": "Connections to webhooks and key sets",
    "service": "Process",
    "service.workers": "Workers",
}

_INTRODUCTION = """\
# Limits

The limits that clients and operators can meet, with their values. Limits that an operator can
change name their [setting](configuration.md); all others are fixed. Sizes without a unit are in
bytes. A row with several limits has their values in the same order. This page is generated from
the code.
"""

_COMMENT = re.compile(r"#: ?(.*)")
#: Ends of the names of limits that are parts of another one, without a unit.
_SHARES = ("_JITTER", "_SPREAD")


def page() -> str:
    """Return the page that the modules give."""
    parts = [_INTRODUCTION]
    for package, title in PACKAGES.items():
        rows = _rows(package)
        if rows:
            parts.append(f"\n## {title}\n\n| limit | value |\n|---|---|\n" + "".join(rows))
    return "".join(parts)


def packages() -> set[str]:
    """Return the packages that have a limits module."""
    root = _SOURCE / "durable_streams_tw"
    return {
        ".".join(path.parent.relative_to(root).parts)
        for path in root.rglob("limits.py")
        if path.parent != root
    }


def _rows(package: str) -> list[str]:
    name = f"durable_streams_tw.{package}.limits"
    path = _SOURCE.joinpath(*name.split(".")).with_suffix(".py")
    text = path.read_text("utf-8")
    lines = text.split("\n")
    module = import_module(name)
    rows: list[str] = []
    comment = ""
    for node in ast.parse(text).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above = _comment_above(lines, node.lineno - 1)
        # One comment may describe several limits in a row. Plain comments ("# …") are those of
        # limits that only the code needs.
        if above or lines[node.lineno - 2].startswith("#"):
            comment = above
        if not comment or node.value is None:
            continue
        value = _value_text(
            node.target.id, getattr(module, node.target.id), ast.unparse(node.value)
        )
        if above or rows == []:
            rows.append(f"| {_sentence(comment)} | {value} |\n")
        else:
            rows[-1] = rows[-1].removesuffix(" |\n") + f"; {value} |\n"
    return rows


def _comment_above(lines: list[str], number: int) -> str:
    found: list[str] = []
    while number > 0 and (match := _COMMENT.match(lines[number - 1])):
        found.insert(0, match[1])
        number -= 1
    return " ".join(found)


def _sentence(comment: str) -> str:
    # Markdown has one backtick for code. A pipe would end the cell.
    return re.sub(r"``?([^`]+)``?", r"`\1`", comment).replace("|", "\\|")


def _value_text(name: str, value: object, expression: str) -> str:
    if isinstance(value, float):
        unit = " per second" if "RATE" in name else "" if name.endswith(_SHARES) else " s"
        return f"{value:,g}{unit}"
    if not isinstance(value, int):
        return f"`{value!r}`"
    if re.search(r"\b[KMGT]IB\b|<<", expression):
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= size and value % size == 0:
                return f"{value // size:,} {unit}"
    return f"{value:,}" + (" ms" if name.endswith("_MS") else "")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
