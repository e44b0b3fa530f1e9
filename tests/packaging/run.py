"""Build the package, install it into new environments, and check that twistd finds the plugin.

It is installed with the commands of the README, from a wheel with those of docs/install.md, and
editable. The wheel of a
release, which is built from the source distribution, is inspected.
Both must install the plugin file without an ``__init__.py`` in ``twisted/``.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

from tools import release

from tests.examples.blocks import one

TOP = Path(__file__).parent.parent.parent
PLUGINS = ("twisted/plugins/durable_streams_tw.py", "twisted/plugins/durable_streams_tw_auth.py")
NEEDED = ("durable_streams_tw/__init__.py", "durable_streams_tw/py.typed", *PLUGINS)
PACKAGES = ("durable_streams_tw/", "twisted/plugins/", "durable_streams_tw-")


def output_of(*command: str | Path, cwd: Path) -> str:
    """Return the output of a command. If it fails, print the output and exit."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, command))}: exit code {done.returncode}")
    return done.stdout


def wheel_faults(wheel: Path) -> list[str]:
    """Return missing and unexpected files of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    faults = [f"the wheel lacks {name}" for name in NEEDED if name not in names]
    if not any(name.endswith("LICENSE") for name in names):
        faults.append("the wheel lacks the licence")
    for name in names:
        foreign = name.startswith("twisted/") and name not in PLUGINS
        if foreign or not name.startswith(PACKAGES):
            faults.append(f"the wheel has {name}")
    return faults


def sbom_faults(sbom: Path) -> list[str]:
    """Return packages that the SBOM lacks, and packages that an installation does not have."""
    told = json.loads(sbom.read_text("utf-8"))
    listed = {_plain(component["name"]) for component in told["components"]}
    project = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {_plain(text) for text in project["dependencies"]}
    faults = [f"the SBOM lacks {name}" for name in sorted(wanted - listed)]
    tools = listed & {"pip", "setuptools", "mypy", "ruff", "sphinx", "hypothesis"}
    faults += [f"the SBOM has {name}" for name in sorted(tools)]
    if told["metadata"]["component"].get("version") != release.version():
        faults.append("the SBOM does not name the version")
    return faults


def _plain(requirement: str) -> str:
    """Return the normalized name of a requirement (PEP 503)."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def install_faults(kind: str, scratch: Path) -> list[str]:
    """Return faults of a new environment: as the README makes one of a checkout, as
    docs/install.md makes one of a wheel, or editable.
    """
    home = scratch / kind
    script = f"python3 -m venv {home}\n{home}/bin/pip install --editable ."
    if kind == "checkout":
        # The last command starts the server.
        script = one("README.md", "sh", "pip install").rpartition(" && ")[0]
        script = script.replace(".venv", str(home))
    elif kind == "wheel":
        script = one("docs/install.md", "sh", "pip wheel").replace(
            "/opt/durable-streams", str(home)
        )
        script = script.replace("dist/", f"{scratch}/dist/").replace(
            "-dir dist", f"-dir {scratch}/dist"
        )
    path = f"PATH={Path(sys.executable).parent}:$PATH"
    output_of("sh", "-ec", f"{path}\n{script}", cwd=TOP)
    python, twistd = home / "bin" / "python", home / "bin" / "twistd"
    faults = []
    # Run it twice: twistd writes a cache of its plugins, and reads it the second time.
    for attempt in ("first", "second"):
        if "durable-streams" not in output_of(twistd, "--help", cwd=scratch):
            faults.append(f"{kind}: the {attempt} twistd --help does not list durable-streams")
    if "--data-dir" not in output_of(twistd, "durable-streams", "--help", cwd=scratch):
        faults.append(f"{kind}: twistd durable-streams --help does not name --data-dir")
    server = home / "bin" / "durable-streams-server"
    if "valid" not in output_of(server, "config", "check", "--data-dir=x", cwd=scratch):
        faults.append(f"{kind}: durable-streams-server does not accept valid settings")
    place = "import durable_streams_tw as d, pathlib; print(pathlib.Path(d.__file__).resolve())"
    found = Path(output_of(python, "-c", place, cwd=scratch).strip())
    expected = TOP / "src" if kind == "editable" else home.resolve()
    if not found.is_relative_to(expected):
        faults.append(f"{kind}: the package came from {found}")
    return faults


def main() -> int:
    """Build, install and check; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="durable-streams-") as folder:
        scratch = Path(folder)
        wheel = release.build(scratch / "dist")
        print(f"built {wheel.name}", flush=True)
        faults = wheel_faults(wheel)
        release.sbom(wheel, scratch / release.SBOM)
        faults += sbom_faults(scratch / release.SBOM)
        for kind in ("checkout", "wheel", "editable"):
            found = install_faults(kind, scratch)
            print(f"{kind} install: {'wrong' if found else 'good'}", flush=True)
            faults += found
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
