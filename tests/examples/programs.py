"""Processes of the examples and the tutorial."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.service.black_box import PATIENCE, environment

TOP = Path(__file__).parents[2]
EXAMPLES = TOP / "examples"
_URL = re.compile(rb"(https?://[a-z0-9.]+:(\d+)/\S*)")


def process_environment(directory: Path) -> dict[str, str]:
    """Return an environment like that of an activated virtual environment."""
    folder = directory / "bin"
    folder.mkdir(exist_ok=True)
    run = "from durable_streams_tw.cli.commands import main; main()"
    for name, call in (
        ("durable-streams-server", f'{sys.executable} -c "{run}"'),
        ("python", sys.executable),
        ("twistd", f'{sys.executable} -c "from twisted.scripts.twistd import run; run()"'),
    ):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        script.chmod(0o755)
    found = environment()
    return {**found, "PATH": f"{folder}{os.pathsep}{found['PATH']}"}


class RunningProgram:
    """Program that runs during the block and prints its URL."""

    def __init__(self, directory: Path, *command: str) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env=process_environment(directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.url = self.line = ""

    def __enter__(self) -> RunningProgram:
        assert self._process.stdout is not None
        while True:
            line = self._process.stdout.readline()
            assert line, f"it has ended with {self._process.wait(PATIENCE)}"
            found = _URL.search(line)
            if found is not None:
                self.line = line.decode()
                self.url, self.port = found[1].decode(), int(found[2])
                return self

    def read_line(self) -> str:
        """Return the next line that the program prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE)


def run_program(
    directory: Path, *command: str, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end and return its output."""
    return subprocess.run(
        command,
        cwd=directory,
        env=process_environment(directory),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
    )
