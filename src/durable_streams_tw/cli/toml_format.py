"""Text of TOML strings."""

from __future__ import annotations


def quoted(text: str) -> str:
    """Return a text as a TOML basic string."""
    return '"' + escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def escaped(text: str) -> str:
    """Return a text with the characters escaped that cannot be in a line of TOML."""
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
