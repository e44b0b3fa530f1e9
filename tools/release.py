"""Build the files of a release in a new directory.

    python -m tools.release dist

The files are a source distribution, a wheel built from it, ``sbom.cdx.json`` (CycloneDX: all
packages that the wheel installs, with versions), ``notes.md`` (the version's section of the
changelog) and ``SHA256SUMS``. With SOURCE_DATE_EPOCH set, builds of the same sources are
identical.

``--tag v0.2.0`` checks that tag and version match, that the changelog has a section for the
version, and that no news fragment is left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).parent.parent
SBOM = "sbom.cdx.json"
NOTES = "notes.md"
SUMS = "SHA256SUMS"


class CannotRelease(Exception):
    """The sources cannot be released; the message gives the reason."""


def version() -> str:
    """Return the package's version."""
    text = (TOP / "src" / "durable_streams_tw" / "__init__.py").read_text("utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise CannotRelease("the package has no version")
    return found[1]


def notes(changelog: str, number: str) -> str:
    """Return a version's section of the changelog, without its title. Raise `CannotRelease`."""
    title = rf"^## {re.escape(number)} \([0-9-]+\)\n"
    found = re.search(rf"{title}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise CannotRelease(f"the changelog has no section for {number}")
    return found[1].strip() + "\n"


def check_tag(tag: str, number: str, fragments: list[str]) -> None:
    """Check a tag against the version and the left-over fragments. Raise `CannotRelease`."""
    if tag != f"v{number}":
        raise CannotRelease(f"tag {tag} does not match the package's version {number}")
    if fragments:
        raise CannotRelease(
            f"news fragments are left, run towncrier build: {', '.join(sorted(fragments))}"
        )


def build(target: Path) -> Path:
    """Build both distributions in a directory; return the wheel."""
    _run(sys.executable, "-m", "build", "--outdir", target, TOP)
    (wheel,) = target.glob("*.whl")
    return wheel


def sbom(wheel: Path, target: Path) -> None:
    """Write the SBOM of an installation of the wheel."""
    with tempfile.TemporaryDirectory(prefix="durable-streams-") as folder:
        # Without pip, which would be listed in the SBOM.
        _run(sys.executable, "-m", "venv", "--without-pip", folder)
        python = Path(folder) / "bin" / "python"
        pip = (sys.executable, "-m", "pip", "--python", python)
        _run(*pip, "install", "--quiet", wheel)
        _run(
            *(sys.executable, "-m", "cyclonedx_py", "environment", python),
            *("--pyproject", TOP / "pyproject.toml", "--output-reproducible"),
            *("--output-format", "JSON", "--output-file", target),
        )
    # cyclonedx does not read the dynamic version of the project.
    told = json.loads(target.read_text("utf-8"))
    told["metadata"]["component"]["version"] = version()
    target.write_text(json.dumps(told, indent=2) + "\n", "utf-8")


def sums(folder: Path) -> str:
    """Return a line for each file of a directory, as ``sha256sum --check`` reads it."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files
    )


def main() -> int:
    """Parse the command line, build the files; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="directory to create")
    parser.add_argument("--tag", help="check that the sources match this tag")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    try:
        number = version()
        section = None
        if arguments.tag is not None:
            fragments = [path.name for path in (TOP / "newsfragments").glob("+*.md")]
            check_tag(arguments.tag, number, fragments)
            section = notes((TOP / "CHANGELOG.md").read_text("utf-8"), number)
        if folder.exists():
            raise CannotRelease(f"{folder} exists already")
        folder.mkdir(parents=True)
        wheel = build(folder)
        sbom(wheel, folder / SBOM)
    except CannotRelease as reason:
        print(f"Error: cannot release: {reason}", file=sys.stderr)
        return 1
    if section is not None:
        (folder / NOTES).write_text(section, "utf-8")
    (folder / SUMS).write_text(sums(folder), "utf-8")
    print((folder / SUMS).read_text("utf-8"), end="")
    return 0


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=TOP,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        raise CannotRelease(f"{' '.join(map(str, command[:4]))} failed")


if __name__ == "__main__":
    sys.exit(main())
