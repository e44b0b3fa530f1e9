"""Logs for machines: one flat JSON object a line, and never a reason to stop serving.

1. What a client sends is in no event, but for names of streams and subscriptions where something
   is wrong with them: no body, no field of a request, no token.
2. An event is one line, whatever is in it: nobody can forge a second one.
3. A disk that is full loses lines, not requests; how many is said once there is room.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEvent,
)
from twisted.python.failure import Failure
from zope.interface import implementer

#: Characters of a text in an event; tracebacks may have more.
_LONGEST: Final = 2_000
_LONGEST_TRACE: Final = 20_000

_TAKEN: Final = frozenset(("time", "level", "source", "message", "request_id", "error", "trace"))

# What older parts of Twisted put into every event.
_LEGACY: Final = frozenset(
    ("format", "isError", "system", "failure", "why", "logLevel", "log", "printed")
)


def entry(event: LogEvent) -> dict[str, Any]:
    """Return an event as a flat object: time, level, source, message, and its values.

    ``request_id`` is also in the response of the failed request.
    """
    when = event.get("log_time")
    moment = datetime.fromtimestamp(when if isinstance(when, float) else 0.0, UTC)
    told: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": getattr(event.get("log_level"), "name", LogLevel.info.name),
        "source": _short(str(event.get("log_namespace") or "-"), _LONGEST),
        "message": _short(formatEvent(event), _LONGEST),
    }
    if "mark" in event:
        told["request_id"] = event["mark"]
    failure = event.get("log_failure")
    if isinstance(failure, Failure) and failure.type is not None:
        told["error"] = f"{failure.type.__module__}.{failure.type.__qualname__}"
        told["trace"] = _short(failure.getTraceback(), _LONGEST_TRACE)
    for name, value in event.items():
        own = not name.startswith("log_") and name not in _LEGACY and name not in _TAKEN
        if own and name != "mark" and name.isidentifier():
            told[name] = _part(value)
    return told


def line_of(event: LogEvent) -> bytes:
    """Return the line of an event, with its line end."""
    return json.dumps(entry(event)).encode("ascii") + b"\n"


def _part(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # JSON has no infinities.
        return value if abs(value) < 1e300 else str(value)
    return _short(str(value), _LONGEST)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "..."


class Lines:
    """A descriptor that takes lines, and loses those that it cannot write."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lost = 0
        # Whether the last line was cut short.
        self._torn = False

    def reopen(self, path: str | Path) -> None:
        """Write to the file that has this name now. Raises `OSError`."""
        opened = _open(path)
        try:
            os.dup2(opened, self._descriptor, inheritable=False)
        finally:
            os.close(opened)

    def write(self, line: bytes) -> None:
        """Write a line. Raises nothing that a disk can cause."""
        if self._lost:
            lost = {"level": "warn", "source": __name__, "message": "lines of this log were lost"}
            told = json.dumps({**lost, "lost": self._lost}).encode("ascii") + b"\n"
            if not self._written(told):
                self._lost += 1
                return
            self._lost = 0
        if not self._written(line):
            self._lost += 1

    def _written(self, line: bytes) -> bool:
        if self._torn:
            # What was cut short stays a line of its own.
            line = b"\n" + line
        try:
            written = os.write(self._descriptor, line)
        except OSError:
            return False
        whole = written == len(line)
        if written:
            self._torn = not whole
        return whole


@implementer(ILogObserver)
class JSONLog:
    """Writes events as lines of JSON, to the file at ``path`` where that is known."""

    def __init__(self, descriptor: int, path: str | Path | None = None) -> None:
        self._lines = Lines(descriptor)
        self._path = path

    def reopen(self) -> None:
        """Go on in the file that has the log's name now, which another program has renamed.

        Raises `OSError`.
        """
        if self._path is not None:
            self._lines.reopen(self._path)

    def __call__(self, event: LogEvent) -> None:
        """Write an event. Debugging is left out."""
        level = event.get("log_level")
        if level is not LogLevel.debug:
            self._lines.write(line_of(event))


def open_json_log(path: str | Path) -> JSONLog:
    """Log to the end of a file, so that other programs may rotate it by copying or renaming."""
    return JSONLog(_open(path), path)


def _open(path: str | Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
