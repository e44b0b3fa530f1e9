"""Rules of the source tree: import direction, import cycles, dead modules, docstrings.

Sources are parsed, not imported, so a rule holds on every platform and for every branch.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.registry import COMMANDS

ROOT = "durable_streams_tw"
SOURCES = Path(__file__).resolve().parent.parent / "src"
PLUGIN = SOURCES / "twisted" / "plugins" / f"{ROOT}.py"
AUTH_PLUGIN = PLUGIN.with_name(f"{ROOT}_auth.py")
# Module that the second plugin imports.
AUTH_TYPES = f"{ROOT}.service.auth_plugin"

# A package imports itself and the packages before it.
ORDER = (
    *(
        "clocks",
        "concurrency",
        "datastructures",
        "eager_writer",
        "reactor_turn",
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

# Parts of ``storage`` in import order. "" stands for the modules directly below it.
STORAGE_ORDER = (
    "",
    "engine",
    "commands",
    "shared",
    "durable",
    "memory",
    "postgres",
    "remote",
    "admin",
)

# Entry point of the child process that the store commands start.
CHILD = f"{ROOT}.cli.store_worker"

# Entry point of the worker processes of a server.
WORKER = f"{ROOT}.service.workers.template"

# Target of the console script in pyproject.toml; it looks commands up by name.
CONSOLE = f"{ROOT}.cli.commands"

# Functions of the protocol take time and randomness as arguments and do no I/O.
IMPURE = {
    *("asyncio", "os", "random", "secrets", "socket", "subprocess", "sys", "tempfile"),
    *("threading", "time", "logging", "pathlib", "shutil", "select", "signal"),
}


class Module:
    """Source file and the names that it imports."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.text = path.read_text("utf-8")
        self.tree = ast.parse(self.text, str(path))
        self.is_package = path.name == "__init__.py"

    @property
    def package(self) -> str | None:
        """Return the top-level package of the module; None for ``durable_streams_tw`` itself."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else None

    def imports(self, top_level: bool = False) -> Iterator[str]:
        """Yield the dotted names of all imports, ``package.name`` for each name of a package.

        With ``top_level``, skip imports inside functions.
        """
        nodes = _outside_functions(self.tree) if top_level else ast.walk(self.tree)
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{self.name}: relative import"
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
    """Each rule lists the modules that break it."""

    def setUp(self) -> None:
        self.modules = _modules()

    def _inside(self, dotted: str) -> str | None:
        """Return our module that a dotted name refers to, or that defines it."""
        while dotted and dotted not in self.modules:
            dotted = dotted.rpartition(".")[0]
        return dotted or None

    def test_all_packages_are_found(self) -> None:
        """The rules below apply to the real tree."""
        packages = {module.package for module in self.modules.values()} - {None}
        self.assertGreater(len(self.modules), 30)
        self.assertLessEqual({"protocol", "storage", "live", "http", "service"}, packages)
        self.assertLessEqual(packages, set(ORDER), "a package without a place in the order")
        folders = {path.parent for path in (SOURCES / ROOT).rglob("*.py")}
        self.assertEqual([str(at) for at in folders if not (at / "__init__.py").exists()], [])

    def test_imports_point_to_earlier_packages(self) -> None:
        """Packages import only from packages before them in ORDER."""
        wrong = []
        for module in self.modules.values():
            if module.package is None:
                # The package imports its public names lazily.
                continue
            allowed = ORDER[: ORDER.index(module.package) + 1]
            for name in module.imports():
                parts = name.split(".")
                if parts[0] != ROOT or parts[1:] == ["__version__"]:
                    continue
                if len(parts) < 2 or parts[1] not in allowed:
                    wrong.append(f"{module.name} imports {name}")
        self.assertEqual(wrong, [])

    def test_storage_imports_one_way(self) -> None:
        """Parts of ``storage`` import only from parts before them."""
        wrong = []
        parts = set(STORAGE_ORDER[1:])
        for module in self.modules.values():
            if module.package != "storage":
                continue
            own = _storage_part(module.name, parts)
            for name in module.imports():
                if not name.startswith(f"{ROOT}.storage."):
                    continue
                other = _storage_part(name, parts)
                if STORAGE_ORDER.index(other) > STORAGE_ORDER.index(own):
                    wrong.append(f"{module.name} imports {name}")
        self.assertEqual(wrong, [])

    def test_no_import_cycles(self) -> None:
        """No modules import each other, in functions and under TYPE_CHECKING included."""
        graph: dict[str, set[str]] = {
            module.name: {
                inside
                for name in module.imports()
                if (inside := self._inside(name)) not in (None, ROOT, module.name)
            }
            for module in self.modules.values()
        }
        self.assertEqual(_cycles(graph), [])

    def test_the_top_package_imports_nothing(self) -> None:
        """Programs can import the protocol without Twisted."""
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
        """``protocol`` imports msgspec and pure modules of the standard library only."""
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

    def test_imports_install_no_reactor(self) -> None:
        """Only functions import the reactor."""
        wrong = [
            module.name
            for module in self.modules.values()
            for name in module.imports(top_level=True)
            if (name + ".").startswith("twisted.internet.reactor.")
        ]
        self.assertEqual(wrong, [])

    def test_the_plugin_imports_little(self) -> None:
        """Every run of twistd imports the plugin, so it imports ``ServiceMaker`` only."""
        plugin = Module("plugin", PLUGIN)
        self.assertEqual(list(plugin.imports()), ["twisted.application.service.ServiceMaker"])
        auth = Module("plugin", AUTH_PLUGIN)
        self.assertEqual(list(auth.imports()), [f"{AUTH_TYPES}.LazyCheckerFactory"])
        outside = [
            name
            for name in self.modules[AUTH_TYPES].imports(top_level=True)
            if not name.startswith(("__future__", "typing", "zope", "twisted."))
        ]
        self.assertEqual(outside, [], "imports of ours before first use")
        for folder in (PLUGIN.parent, PLUGIN.parent.parent):
            self.assertFalse((folder / "__init__.py").exists(), "twisted.plugins is Twisted's")

    def test_no_dead_modules(self) -> None:
        """The package, the plugins and the commands import every module, directly or not."""
        named = {
            node.value
            for node in ast.walk(ast.parse(PLUGIN.read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        waiting = [ROOT, *(named & set(self.modules))]
        self.assertEqual(len(waiting), 2, "the plugin names a module of ours")
        waiting += [AUTH_TYPES, CONSOLE, CHILD, WORKER]
        waiting += [f"{ROOT}.cli.{entry.module}" for entry in COMMANDS.values()]
        reached = self._reached(waiting)
        self.assertEqual(sorted(set(self.modules) - reached), [])

    def _reached(self, waiting: list[str]) -> set[str]:
        """Return all modules that some modules import, directly or not."""
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
        """Taking the first key of a dict scans all slots deleted before it: O(n) per call."""
        wrong = [
            module.name
            for module in self.modules.values()
            if "next(iter(" in module.text and "OrderedDict" not in module.text
        ]
        self.assertEqual(wrong, [])

    def test_docstrings(self) -> None:
        """Every module, public class and public function has a docstring."""
        missing = []
        for module in self.modules.values():
            if not ast.get_docstring(module.tree):
                missing.append(module.name)
            missing += [f"{module.name}.{name}" for name in _undocumented(module.tree)]
        self.assertEqual(missing, [])


def _storage_part(dotted: str, parts: set[str]) -> str:
    """Return the part of STORAGE_ORDER that a module below ``storage`` belongs to."""
    below = [*dotted.split("."), "", ""][2]
    return below if below in parts else ""


def _cycles(graph: Mapping[str, Collection[str | None]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module, each sorted."""
    found = []
    reachable = {name: _reachable(graph, name) for name in graph}
    seen: set[str] = set()
    for name in sorted(graph):
        if name not in seen:
            component = sorted(at for at in reachable[name] if name in reachable.get(at, ()))
            seen.update(component)
            if component and component != [name]:
                found.append(component)
    return found


def _reachable(graph: Mapping[str, Collection[str | None]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting: list[str | None] = [start]
    while waiting:
        for name in graph.get(waiting.pop() or "", ()):
            if name is not None and name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached


def _undocumented(tree: ast.AST, within: str = "") -> Iterator[str]:
    """Yield public definitions without a docstring, except those in private classes."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield within + node.name
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node, f"{within}{node.name}.")
