"""The rules of the tree: who may import whom, and what a module looks like.

Sources are read, not imported, so a rule holds on every platform and for every branch.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.registry import COMMANDS

ROOT = "durable_streams_tw"
SOURCES = Path(__file__).resolve().parent.parent / "src"
PLUGIN = SOURCES / "twisted" / "plugins" / f"{ROOT}.py"
AUTH_PLUGIN = PLUGIN.with_name(f"{ROOT}_auth.py")
# What the second one imports.
AUTH_TYPES = f"{ROOT}.service.auth_plugin"

# A package imports itself and the ones before it.
ORDER = (
    *(
        "clocks",
        "concurrency",
        "datastructures",
        "protocol",
        "outgoing",
        "storage",
        "live",
        "subscriptions",
        "auth",
        "http",
        "embedded",
    ),
    *("telemetry", "service", "client", "cli"),
)

# What the store commands run in a process of its own.
CHILD = f"{ROOT}.cli.store_child"

# What pyproject.toml names as a script; it finds its commands by name.
CONSOLE = f"{ROOT}.cli.commands"

# Time, chance and the world outside are arguments of the protocol's functions.
IMPURE = {
    *("asyncio", "os", "random", "secrets", "socket", "subprocess", "sys", "tempfile"),
    *("threading", "time", "logging", "pathlib", "shutil", "select", "signal"),
}


class Module:
    """A source file and what it imports."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.text = path.read_text("utf-8")
        self.tree = ast.parse(self.text, str(path))
        self.is_package = path.name == "__init__.py"

    @property
    def package(self) -> str | None:
        """The part of the server that it belongs to; None for the front door."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else None

    def imports(self, top_level: bool = False) -> Iterator[str]:
        """Dotted names of all that it imports, ``package.name`` for each name from a package;
        with ``top_level`` only what importing the module imports."""
        nodes = _outside_functions(self.tree) if top_level else ast.walk(self.tree)
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{self.name}: imports are absolute"
                for alias in node.names:
                    yield f"{node.module}.{alias.name}"


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _outside_functions(child)


@cache
def _modules() -> dict[str, Module]:
    found = {}
    for path in sorted((SOURCES / ROOT).rglob("*.py")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found


class ArchitectureTests(SynchronousTestCase):
    """Each rule names the files that break it."""

    def setUp(self) -> None:
        self.modules = _modules()

    def _inside(self, dotted: str) -> str | None:
        """The module of ours that a dotted name means, or stands in."""
        while dotted and dotted not in self.modules:
            dotted = dotted.rpartition(".")[0]
        return dotted or None

    def test_there_is_something_to_look_at(self) -> None:
        """The rules below are about the real tree."""
        packages = {module.package for module in self.modules.values()} - {None}
        self.assertGreater(len(self.modules), 30)
        self.assertLessEqual({"protocol", "storage", "live", "http", "service"}, packages)
        self.assertLessEqual(packages, set(ORDER), "a package without a place in the order")
        folders = {path.parent for path in (SOURCES / ROOT).rglob("*.py")}
        self.assertEqual([str(at) for at in folders if not (at / "__init__.py").exists()], [])

    def test_imports_point_to_earlier_packages(self) -> None:
        """Never back."""
        wrong = []
        for module in self.modules.values():
            if module.package is None:
                # The front door names what it offers, and imports it when it is asked for.
                continue
            allowed = ORDER[: ORDER.index(module.package) + 1]
            for name in module.imports():
                parts = name.split(".")
                if parts[0] != ROOT or parts[1:] == ["__version__"]:
                    continue
                if len(parts) < 2 or parts[1] not in allowed:
                    wrong.append(f"{module.name} imports {name}")
        self.assertEqual(wrong, [])

    def test_the_front_door_is_light(self) -> None:
        """Importing the package imports nothing: the protocol can be had without Twisted."""
        front = self.modules[ROOT]
        inert = {"__future__.annotations", "typing.TYPE_CHECKING"}
        checking = {
            name
            for node in ast.walk(front.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for statement in node.body
            if isinstance(statement, ast.ImportFrom)
            for name in (f"{statement.module}.{alias.name}" for alias in statement.names)
        }
        self.assertEqual(set(front.imports(top_level=True)) - checking - inert, set())

    def test_the_protocol_is_pure(self) -> None:
        """It imports the standard library's pure parts and msgspec."""
        wrong = []
        for module in self.modules.values():
            if module.package != "protocol":
                continue
            for name in module.imports():
                top = name.split(".")[0]
                pure = top in sys.stdlib_module_names and top not in IMPURE
                if not pure and top not in (ROOT, "msgspec"):
                    wrong.append(f"{module.name} imports {name}")
        self.assertEqual(wrong, [])

    def test_nobody_chooses_the_reactor(self) -> None:
        """Importing a module never installs a reactor; only functions may ask for it."""
        wrong = [
            module.name
            for module in self.modules.values()
            for name in module.imports(top_level=True)
            if (name + ".").startswith("twisted.internet.reactor.")
        ]
        self.assertEqual(wrong, [])

    def test_the_plugin_is_light(self) -> None:
        """Every run of twistd imports it, so it imports the name holder only."""
        plugin = Module("plugin", PLUGIN)
        self.assertEqual(list(plugin.imports()), ["twisted.application.service.ServiceMaker"])
        auth = Module("plugin", AUTH_PLUGIN)
        self.assertEqual(list(auth.imports()), [f"{AUTH_TYPES}.LazyCheckerFactory"])
        outside = [
            name
            for name in self.modules[AUTH_TYPES].imports(top_level=True)
            if not name.startswith(("__future__", "typing", "zope", "twisted."))
        ]
        self.assertEqual(outside, [], "nothing of ours before it is used")
        for folder in (PLUGIN.parent, PLUGIN.parent.parent):
            self.assertFalse((folder / "__init__.py").exists(), "twisted.plugins is Twisted's")

    def test_no_dead_modules(self) -> None:
        """Everything is reached from the front door, from what the plugin names, or from the
        commands."""
        named = {
            node.value
            for node in ast.walk(ast.parse(PLUGIN.read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        waiting = [ROOT, *(named & set(self.modules))]
        self.assertEqual(len(waiting), 2, "the plugin names a module of ours")
        waiting += [AUTH_TYPES, CONSOLE, CHILD]
        waiting += [entry.place.partition(":")[0] for entry in COMMANDS.values()]
        reached = self._reached(waiting)
        self.assertEqual(sorted(set(self.modules) - reached), [])

    def _reached(self, waiting: list[str]) -> set[str]:
        """All that importing some modules may import, one way or another."""
        reached: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            if "." in name:
                waiting.append(name.rpartition(".")[0])
            for imported in self.modules[name].imports():
                inside = self._inside(imported)
                if inside is not None:
                    waiting.append(inside)
        return reached

    def test_no_dict_is_a_queue(self) -> None:
        """Taking the first key of a plain dictionary walks over all slots deleted before it, so
        a module that does it uses an ``OrderedDict`` or, better, a ``BoundedCache``."""
        wrong = [
            module.name
            for module in self.modules.values()
            if "next(iter(" in module.text and "OrderedDict" not in module.text
        ]
        self.assertEqual(wrong, [])

    def test_docstrings(self) -> None:
        """Every module, every public class and every public function says what it is."""
        missing = []
        for module in self.modules.values():
            if not ast.get_docstring(module.tree):
                missing.append(module.name)
            missing += [f"{module.name}.{name}" for name in _undocumented(module.tree)]
        self.assertEqual(missing, [])


def _undocumented(tree: ast.AST, within: str = "") -> Iterator[str]:
    """Public definitions without a docstring, but for those within private classes."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield within + node.name
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node, f"{within}{node.name}.")
