"""Runner of wrk, the load generator.

The script ``load.lua`` ends a run with one line of JSON, which `parse` reads.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("load.lua")
MISSING = "wrk is not on the path (Debian and Ubuntu have it as package wrk)"
# Seconds before a missing response is an error, and that a run may take in addition.
ANSWER_SECONDS = 30


class BadLoad(Exception):
    """Run of wrk with refused requests or broken connections; its numbers are not usable."""


@dataclass(frozen=True)
class Load:
    """Result of a run: responses, seconds, bytes read, milliseconds of latency.

    ``cpu`` is the share of one core that wrk used, 0 to 1.
    """

    requests: int
    seconds: float
    read: int
    p50: float
    p99: float
    cpu: float

    @property
    def rate(self) -> float:
        """Return responses per second."""
        return self.requests / self.seconds


def available() -> bool:
    """Return True if wrk can be run."""
    return shutil.which("wrk") is not None


def parse(output: str, cpu_seconds: float = 0.0) -> Load:
    """Parse the output of a run.

    Raise `BadLoad` if the line is missing, or reports a status above 399, a broken
    connection or a timeout.
    """
    for line in output.splitlines():
        if line.startswith('{"requests"'):
            said: dict[str, Any] = json.loads(line)
            break
    else:
        raise BadLoad(f"wrk gave no result: {output.strip()[-200:]!r}")
    wrong = [
        f"{said[kind]} {name}"
        for kind, name in (
            ("status", "statuses above 399"),
            ("connect", "failed connects"),
            ("read", "failed reads"),
            ("write", "failed writes"),
            ("timeout", f"responses later than {ANSWER_SECONDS} s"),
        )
        if said[kind]
    ]
    if wrong:
        raise BadLoad(", ".join(wrong) + f" of {said['requests']} requests")
    if not said["requests"]:
        raise BadLoad("no request was answered")
    seconds = said["microseconds"] / 1e6
    return Load(
        requests=said["requests"],
        seconds=seconds,
        read=said["bytes"],
        p50=said["p50"] / 1e3,
        p99=said["p99"] / 1e3,
        cpu=cpu_seconds / seconds,
    )


def run(url: str, connections: int, seconds: float, *arguments: str) -> Load:
    """Load a server for some whole seconds; ``arguments`` are those of ``load.lua``.

    Raise `BadLoad`, or `subprocess.TimeoutExpired` if wrk does not exit.
    """
    whole = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole}s", f"--timeout={ANSWER_SECONDS}s"]
    command += ["-s", str(SCRIPT), url, "--", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=whole + 2 * ANSWER_SECONDS
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return parse(done.stdout + done.stderr, used)
