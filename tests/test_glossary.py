"""Test that docs/glossary.md has the words of all public module and class names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_TOP = Path(__file__).parent.parent
_SOURCES = _TOP / "src" / "durable_streams_tw"
_ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def _words(text: str) -> Iterator[str]:
    """Yield the lower-case words of a name or term: ``HTTPServer_1`` has http and server."""
    for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text):
        yield word.lower()


def _names() -> Iterator[tuple[str, str]]:
    """Yield each public module and class name, with the module where it is defined."""
    for path in sorted(_SOURCES.rglob("*.py")):
        place = path.relative_to(_SOURCES).as_posix()
        yield (path.parent.name if path.stem == "__init__" else path.stem), place
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, place


class GlossaryTests(SynchronousTestCase):
    """The page against the names in the source."""

    def setUp(self) -> None:
        page = (_TOP / "docs" / "glossary.md").read_text("utf-8")
        table, _, ordinary = page.partition("## Ordinary words")
        self.terms = [term for term, _ in _ROW.findall(table) if term not in ("term", "---")]
        self.ordinary = re.findall(r"[a-z]+", ordinary.partition(":\n\n")[2])

    def test_sorted(self) -> None:
        for words in (self.terms, self.ordinary):
            folded = [word.lower().replace("-", " ") for word in words]
            self.assertEqual(folded, sorted(set(folded)))

    def test_names(self) -> None:
        """Names are made of words of the terms, singular or plural, and of ordinary words."""
        known = {word for term in self.terms for word in _words(term)} | set(self.ordinary)
        unknown = sorted(
            f"{word} ({name} in {place})"
            for name, place in _names()
            for word in _words(name)
            if not known & _forms(word)
        )
        self.assertGreater(len(self.terms), 80)
        self.assertEqual(unknown, [])


def _forms(word: str) -> set[str]:
    """Return a word and its possible singulars."""
    singular = word.removesuffix("ies") + "y" if word.endswith("ies") else word
    return {word, word.removesuffix("s"), word.removesuffix("es"), singular}
