"""Having a task carried out in a child process, and showing how far it is."""

from __future__ import annotations

import json
import os
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
_PATIENCE: Final = 30.0

EXIT_UNSOUND: Final = 1
"""Exit status where the store, or the machine, is not as it should be."""

EXIT_FAILED: Final = 2
"""Exit status where the task could not be carried out."""

Show = Callable[[str, int, int], None]
Found = Callable[[dict[str, str]], None]


class TaskFailed(click.ClickException):
    """A task that came to nothing: said in a sentence."""

    exit_code = EXIT_FAILED


class StoreUnsound(click.ClickException):
    """The store is not sound; ``findings`` are the first of what is wrong with it."""

    exit_code = EXIT_UNSOUND

    def __init__(self, sentence: str, findings: list[dict[str, str]] | None = None) -> None:
        super().__init__(sentence)
        self.findings = findings or []


def run_task(task: dict[str, Any], found: Found | None = None) -> Any:
    """What comes of a task (fields of `store_worker.Task`), while its progress is shown.

    ``found`` is told of findings as they come. Raises `TaskFailed` and `StoreUnsound`.
    """
    command = [sys.executable, "-P", "-m", _CHILD, json.dumps(task)]
    # In a group of its own, so that Ctrl-C reaches it through us, once.
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
    assert child.stdout is not None, "it is a pipe"
    outcome = None
    for line in child.stdout:
        said: dict[str, Any] = json.loads(line)
        if "progress" in said:
            show(*said["progress"])
        elif "finding" in said:
            found(said["finding"])
        else:
            outcome = said
    return outcome


def _died(status: int) -> NoReturn:
    if status == 130:
        raise KeyboardInterrupt
    if status in (-signal.SIGBUS, -signal.SIGSEGV, -signal.SIGABRT):
        name = signal.Signals(-status).name
        raise StoreUnsound(f"the store's file is damaged: reading it ended the process ({name})")
    raise TaskFailed(f"the process that did the work has ended with status {status}")


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
    """Have it tidy up, and see that it ends."""
    child.terminate()
    try:
        child.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()


# -- showing --------------------------------------------------------------------------------


@contextmanager
def _bars() -> Iterator[Show]:
    """A bar a phase on a terminal, and plain lines elsewhere; on standard error."""
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
    """Shows progress as a line when something begins, and one now and then."""
    last: tuple[str, float] | None = None

    def show(what: str, done: int, of: int) -> None:
        nonlocal last
        now = seconds()
        if last is None or what != last[0] or now - last[1] >= _LINE_EVERY:
            last = (what, now)
            write(f"{what}: {amount(what, done, of)}")

    return show


def amount(what: str, done: int, of: int) -> str:
    """How much is done, in words: bytes where something is copied, records elsewhere."""
    if what == "copying":
        return f"{size(done)} of {size(of)}"
    return f"{done:,} of about {max(done, of):,} records"


def size(number: int) -> str:
    """A number of bytes for people: ``69.4 MiB``."""
    value, units = float(number), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{number:,} bytes" if units[0] == "bytes" else f"{value:,.1f} {units[0]}"
