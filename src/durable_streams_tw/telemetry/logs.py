"""JSON logs: one flat object per line, which never block or fail a request.

1. Events contain no request bodies, headers or tokens; names of streams and subscriptions appear
   only in errors about them.
2. Each event is one line, so that clients cannot forge log lines.
3. If the disk is full, lines are dropped; their number is logged once there is room.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from twisted.python.failure import Failure
from zope.interface import implementer

from twisted import logger

#: Namespace of access log events. Not in `access_log`, because that module imports the server.
ACCESS_LOG: Final = "durable_streams_tw.telemetry.access_log"

#: Maximum length of a text and of a traceback in an event, in characters.
_LONGEST: Final = 2_000
_LONGEST_TRACE: Final = 20_000

_TAKEN: Final = frozenset(("time", "level", "source", "message", "request_id", "error", "trace"))

# Keys that the legacy log API of Twisted adds to each event.
_LEGACY: Final = frozenset(
    ("format", "isError", "system", "failure", "why", "logLevel", "log", "printed")
)


def entry(event: logger.LogEvent) -> dict[str, Any]:
    """Return an event as a flat object: time, level, source, message, and its values.

    ``request_id`` is also in the response of the failed request.
    """
    when = event.get("log_time")
    moment = datetime.fromtimestamp(when if isinstance(when, float) else 0.0, UTC)
    fields: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": getattr(event.get("log_level"), "name", logger.LogLevel.info.name),
        "source": _short(str(event.get("log_namespace") or "-"), _LONGEST),
        "message": _short(logger.formatEvent(event), _LONGEST),
    }
    if "mark" in event:
        fields["request_id"] = event["mark"]
    failure = event.get("log_failure")
    if isinstance(failure, Failure) and failure.type is not None:
        fields["error"] = f"{failure.type.__module__}.{failure.type.__qualname__}"
        fields["trace"] = _short(failure.getTraceback(), _LONGEST_TRACE)
    for name, value in event.items():
        own = not name.startswith("log_") and name not in _LEGACY and name not in _TAKEN
        if own and name != "mark" and name.isidentifier():
            fields[name] = _part(value)
    return fields


def line_of(event: logger.LogEvent) -> bytes:
    """Return the line of an event, with its line end."""
    return json.dumps(entry(event)).encode("ascii") + b"\n"


def _part(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # JSON cannot represent infinities.
        return value if abs(value) < 1e300 else str(value)
    return _short(str(value), _LONGEST)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "..."


class LineWriter:
    """Writer of lines to a file descriptor, which drops lines that cannot be written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lost = 0
        # Whether the last line was written only in part.
        self._torn = False

    def reopen(self, path: str | Path) -> None:
        """Switch to the file with this name. Raises `OSError`."""
        opened = _open(path)
        try:
            os.dup2(opened, self._descriptor, inheritable=False)
        finally:
            os.close(opened)

    def write(self, line: bytes) -> None:
        """Write a line, or drop it on an `OSError`."""
        if self._lost:
            lost = {"level": "warn", "source": __name__, "message": "lines of this log were lost"}
            summary = json.dumps({**lost, "lost": self._lost}).encode("ascii") + b"\n"
            if not self._written(summary):
                self._lost += 1
                return
            self._lost = 0
        if not self._written(line):
            self._lost += 1

    def _written(self, line: bytes) -> bool:
        if self._torn:
            # Terminate the partial line first.
            line = b"\n" + line
        try:
            written = os.write(self._descriptor, line)
        except OSError:
            return False
        whole = written == len(line)
        if written:
            self._torn = not whole
        return whole


@implementer(logger.ILogObserver)
class JSONLog:
    """Log observer that writes lines of JSON; ``path`` is the file, if it can be reopened."""

    def __init__(self, descriptor: int, path: str | Path | None = None) -> None:
        self._lines = LineWriter(descriptor)
        self._path = path

    def reopen(self) -> None:
        """Reopen the log by its name, after another program has renamed the file.

        Raises `OSError`.
        """
        if self._path is not None:
            self._lines.reopen(self._path)

    def __call__(self, event: logger.LogEvent) -> None:
        """Write an event."""
        self._lines.write(line_of(event))


def open_json_log(path: str | Path) -> JSONLog:
    """Open a log in append mode, so that other programs can rotate it."""
    return JSONLog(_open(path), path)


def _open(path: str | Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
