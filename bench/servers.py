"""This server and its peers: commands and versions."""

from __future__ import annotations

import atexit
import compileall
import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from unittest import SkipTest

from bench.peers import node

Store = Literal["memory", "durable"]
STORES: tuple[Store, ...] = ("memory", "durable")

#: Titles in tables, by the name on the command line.
TITLES = {
    "fast": "ours",
    "klein": "ours, Klein and twisted.web",
    "postgres": "ours, PostgreSQL",
    "node": "Node reference",
    "caddy": "Caddy plugin (Go)",
    "rust": "Rust server",
    "sender": "bare sender",
}
OURS = ("fast", "klein", "postgres")

CADDYFILE = """\
{{
	admin off
}}
:{port} {{
	bind 127.0.0.1
	route /v1/stream/* {{
		durable_streams{block}
	}}
}}
"""


@dataclass(frozen=True)
class Variant:
    """Server with one store, and the command that runs it.

    ``command`` takes a port and an empty directory.
    """

    server: str
    store: Store
    command: Callable[[int, Path], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return the name for tables."""
        return TITLES[self.server]

    def __str__(self) -> str:
        return f"{self.server} {self.store}"


@dataclass
class Field:
    """Servers that can run here, their versions, and a line for each one that cannot."""

    variants: list[Variant] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def gather(wanted: list[str], caddy: Path | None, rust: Path | None) -> Field:
    """Find the requested servers that can run."""
    found = Field()
    for name in TITLES:
        if name in wanted:
            _FINDERS[name](found, caddy if name == "caddy" else rust)
    return found


def _add(
    found: Field,
    server: str,
    command: Callable[[Store, int, Path], list[str]],
    environment: Mapping[str, str] | None = None,
) -> None:
    for store in STORES:
        found.variants.append(_variant(server, store, command, environment or {}))


def _variant(
    server: str,
    store: Store,
    command: Callable[[Store, int, Path], list[str]],
    environment: Mapping[str, str],
) -> Variant:
    return Variant(server, store, lambda port, home: command(store, port, home), environment)


def _twistd() -> str:
    return str(Path(sys.executable).with_name("twistd"))


def _has_fast_channel() -> bool:
    options = subprocess.run([_twistd(), "durable-streams", "--help"], capture_output=True)
    return b"--no-fast-channel" in options.stdout


def _ours(*more: str) -> Callable[[Store, int, Path], list[str]]:
    def command(store: Store, port: int, home: Path) -> list[str]:
        line = [_twistd(), "--pidfile=", "-n", "durable-streams"]
        line += ["--listen", f"tcp:{port}:interface=127.0.0.1", *more]
        return line + (["--data-dir", str(home)] if store == "durable" else [])

    return command


def _find_fast(found: Field, _: Path | None) -> None:
    if _has_fast_channel():
        _add(found, "fast", _ours(), _compiled())
    else:
        found.skipped.append(
            "fast: this version has no HTTP/1.1 engine of its own; measured with Klein only"
        )


def _compiled() -> dict[str, str]:
    """Return an environment in which this server uses bytecode files, like an installed one."""
    found = importlib.util.find_spec("durable_streams_tw")
    assert found is not None and found.submodule_search_locations, "the bench runs beside it"
    compileall.compile_dir(found.submodule_search_locations[0], quiet=2)
    return {"PYTHONDONTWRITEBYTECODE": ""}


def _find_klein(found: Field, _: Path | None) -> None:
    more = ["--no-fast-channel"] if _has_fast_channel() else []
    _add(found, "klein", _ours(*more), _compiled())


def _find_postgres(found: Field, _: Path | None) -> None:
    try:
        from tests.postgres.cluster import Cluster

        cluster = Cluster(durable=True, settings={"max_wal_size": "4GB"})
    except (ImportError, SkipTest) as error:
        found.skipped.append(f"postgres: {error}")
        return
    atexit.register(cluster.remove)
    cluster.initialize()
    cluster.start()
    found.versions["PostgreSQL"] = str(cluster.version)

    def command(port: int, home: Path) -> list[str]:
        # A row may start a server again on the same store, and the next row make the directory
        # again.
        name = home / "database"
        if not name.exists():
            name.write_text(cluster.create_database(), encoding="ascii")
        url = cluster.url(name.read_text(encoding="ascii"), tcp=True)
        return [*_ours("--database", url)("memory", port, home)]

    found.variants.append(Variant("postgres", "durable", command, _compiled()))


def _find_node(found: Field, _: Path | None) -> None:
    missing = node.missing()
    if missing is not None:
        found.skipped.append(f"node: {missing}")
        return
    node.install()
    found.versions["Node"] = node.node_version()
    found.versions[node.PACKAGE] = node.package_version()

    def command(store: Store, port: int, home: Path) -> list[str]:
        return node.command(port, home if store == "durable" else None)

    _add(found, "node", command)


def _find_caddy(found: Field, binary: Path | None) -> None:
    if not _usable(found, "caddy", binary, "Caddy with its durable_streams module"):
        return
    said = subprocess.run([str(binary), "version"], capture_output=True, text=True, check=True)
    found.versions["Caddy"] = f"{said.stdout.split()[0]}, {_checksum(binary)}"

    def command(store: Store, port: int, home: Path) -> list[str]:
        block = f" {{\n\t\t\tdata_dir {home}\n\t\t}}" if store == "durable" else ""
        # Next to the data: another Caddy may use the same parent directory.
        file = home.with_name(f"{home.name}.caddyfile")
        file.write_text(CADDYFILE.format(port=port, block=block))
        return [str(binary), "run", "--adapter", "caddyfile", "--config", str(file)]

    _add(found, "caddy", command, {"GOMAXPROCS": "1"})


def _find_rust(found: Field, binary: Path | None) -> None:
    if not _usable(found, "rust", binary, "the Rust server"):
        return
    found.versions["Rust server"] = _checksum(binary)

    def command(store: Store, port: int, home: Path) -> list[str]:
        line = [str(binary), "--port", str(port), "--data-dir", str(home)]
        return line + (["--durability", "memory"] if store == "memory" else [])

    _add(found, "rust", command)


def _find_sender(found: Field, _: Path | None) -> None:
    def command(port: int, home: Path) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("sender.py")), str(port)]

    found.variants.append(Variant("sender", "memory", command))


def _usable(found: Field, name: str, binary: Path | None, what: str) -> bool:
    if binary is None:
        found.skipped.append(f"{name}: no --{name} PATH to a built binary of {what} was given")
    elif not binary.is_file():
        found.skipped.append(f"{name}: there is no such file as --{name} names")
    else:
        return True
    return False


def _checksum(binary: Path | None) -> str:
    assert binary is not None
    return f"binary {hashlib.sha256(binary.read_bytes()).hexdigest()[:12]}"


_FINDERS: dict[str, Callable[[Field, Path | None], None]] = {
    "fast": _find_fast,
    "klein": _find_klein,
    "postgres": _find_postgres,
    "node": _find_node,
    "caddy": _find_caddy,
    "rust": _find_rust,
    "sender": _find_sender,
}
