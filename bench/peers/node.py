"""Reference server from npm: pinned, installed next to this file, run by ``server.mjs``."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = "@durable-streams/server"
MAJOR = 20


def missing() -> str | None:
    """Return a message if Node is missing or too old, else None."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return f"Node {MAJOR} or newer, with npm, is not on the path"
    number = re.match(r"v(\d+)", node_version())
    if number is None or int(number[1]) < MAJOR:
        return f"Node {MAJOR} or newer is needed; here is {node_version()}"
    return None


def install() -> None:
    """Install the pinned packages unless they are installed."""
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    stamp = HERE / "node_modules" / ".stamp"
    if stamp.exists() and stamp.read_text() == lock:
        return
    subprocess.run(["npm", "ci", "--no-progress", "--silent"], cwd=HERE, check=True)
    stamp.write_text(lock)


def command(port: int, directory: Path | None) -> list[str]:
    """Return the command that runs it with its file store, or in memory."""
    kept = [] if directory is None else [str(directory)]
    return ["node", str(HERE / "server.mjs"), str(port), *kept]


def node_version() -> str:
    """Return Node's version, such as ``v20.1.0``."""
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def package_version() -> str:
    """Return the installed version."""
    about = json.loads((HERE / "node_modules" / PACKAGE / "package.json").read_text())
    return str(about["version"])
