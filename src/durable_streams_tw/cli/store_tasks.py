"""Store tasks: run in a child process, with progress on standard error."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import click

_CHILD: Final = "durable_streams_tw.cli.store_worker"
_LINE_EVERY: Final = 10.0
_TERMINATE_TIMEOUT: Final = 30.0

EXIT_UNSOUND: Final = 1
"""Exit status if the store is damaged or a check of the machine fails."""

EXIT_FAILED: Final = 2
"""Exit status if the task failed."""

Show = Callable[[str, int, int], None]
Found = Callable[[dict[str, str]], None]


class TaskFailed(click.ClickException):
    """The task failed."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str) -> None:
        # Other messages begin with a path.
        super().__init__(re.sub("^(the|there|nodes) ", lambda word: word[0].capitalize(), message))


class StoreUnsound(click.ClickException):
    """The store is damaged; ``findings`` are the first findings of the check."""

    exit_code = EXIT_UNSOUND

    def __init__(self, sentence: str, findings: list[dict[str, str]] | None = None) -> None:
        super().__init__(sentence)
        self.findings = findings or []


def run_task(name: str, found: Found | None = None, **arguments: Any) -> Any:
    """Run a task of `store_worker.TASKS` in a child process, show its progress, return its result.

    ``found`` is called with each finding as it arrives. Raises `TaskFailed` and `StoreUnsound`.
    """
    command = [sys.executable, "-P", "-m", _CHILD, json.dumps([name, arguments])]
    # A session of its own: otherwise Ctrl-C would interrupt the child twice.
    with (
        _bars() as show,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        ) as child,
        _forwarded(child),
    ):
        try:
            outcome = _outcome(child, show, found or (lambda finding: None))
        except KeyboardInterrupt:
            _end(child)
            raise
        status = child.wait()
    if outcome is None:
        _died(status)
    ((kind, value),) = outcome.items()
    if kind == "unusable":
        raise TaskFailed(value)
    if kind == "flawed":
        raise StoreUnsound(value["sentence"], value["findings"])
    return value


def _outcome(child: subprocess.Popen[bytes], show: Show, found: Found) -> dict[str, Any] | None:
    assert child.stdout is not None, "stdout is a pipe"
    outcome = None
    for line in child.stdout:
        message: dict[str, Any] = json.loads(line)
        if "progress" in message:
            show(*message["progress"])
        elif "finding" in message:
            found(message["finding"])
        else:
            outcome = message
    return outcome


def _died(status: int) -> NoReturn:
    if status == 130:
        raise KeyboardInterrupt
    if status in (-signal.SIGBUS, -signal.SIGSEGV, -signal.SIGABRT):
        name = signal.Signals(-status).name
        raise StoreUnsound(f"The data file is damaged: reading it crashed the process ({name}).")
    raise TaskFailed(f"The worker process exited with status {status}.")


@contextmanager
def _forwarded(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before: Any = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Terminate the child, and kill it if it does not exit in time."""
    child.terminate()
    try:
        child.communicate(timeout=_TERMINATE_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()


def finding_line(finding: dict[str, str]) -> str:
    """Return a finding as text."""
    return f"{finding['meaning']}: {finding['detail']} (key {finding['key']})"


# -- progress -------------------------------------------------------------------------------


@contextmanager
def _bars() -> Iterator[Show]:
    """Show a progress bar for each phase on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield plain_lines(lambda line: click.echo(line, err=True), time.monotonic)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        phases: dict[str, TaskID] = {}

        def show(what: str, done: int, of: int) -> None:
            text = amount(what, done, of)
            if what not in phases:
                phases[what] = bars.add_task(what, amount=text)
            bars.update(phases[what], completed=done, total=max(of, 1), amount=text)

        yield show


def plain_lines(write: Callable[[str], None], seconds: Callable[[], float]) -> Show:
    """Return a function that writes a line at the start of each phase and every 10 s."""
    last: tuple[str, float] | None = None

    def show(what: str, done: int, of: int) -> None:
        nonlocal last
        now = seconds()
        if last is None or what != last[0] or now - last[1] >= _LINE_EVERY:
            last = (what, now)
            write(f"{what}: {amount(what, done, of)}")

    return show


def amount(what: str, done: int, of: int) -> str:
    """Return the progress as text: bytes while copying, records otherwise."""
    if what == "copying":
        return f"{size(done)} of {size(of)}"
    return f"{done:,} of about {max(done, of):,} records"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, such as ``1 stream`` or ``1,024 streams``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(number: int, byte: str = "bytes", grouping: str = ",") -> str:
    """Return a number of bytes in readable form, such as ``69.4 MiB``.

    ``byte`` is the unit of less than a KiB, ``grouping`` separates thousands.
    """
    value, units = float(number), [byte, "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    digits = f"{number:{grouping}}" if units[0] == byte else f"{value:{grouping}.1f}"
    return f"{digits} {units[0]}"
