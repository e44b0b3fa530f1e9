"""Preload library that records the file system calls of a process and makes some fail.

``faulty_files.c`` is compiled on first use and loaded with LD_PRELOAD, so that it intercepts the
calls of Python and of LMDB. It handles files below one directory:

    with tempfile.TemporaryDirectory() as scratch:
        layer = FaultyFiles(scratch, os.path.join(scratch, "data"))
        server = subprocess.Popen([...], env={**os.environ, **layer.environment})
        layer.fail({Call.FDATASYNC}, errno.EIO, name="journal.*", count=1)
        ...
        layer.hits()    # number of failed calls
        layer.mend()    # remove all rules
        for call in read_trace(layer.trace): ...

A rule applies to kinds of calls and a pattern of file names. It lets ``skip`` calls pass, fails
the next ``count`` (all by default), and expires after ``seconds``. The error is a number, or one of
these constants:

=========  ============================================================================
`SHORT`    half of a write is written, and its size returned
`KILL`     the process dies of SIGKILL inside the call: a write has reached the page cache, a
           flush has not begun
=========  ============================================================================

A process can write marks into the trace with `mark`, such as acknowledged commands.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

SHORT: Final = -1
KILL: Final = -2

SUPPORTED: Final = sys.platform == "linux" and (
    shutil.which("gcc") is not None or "CI" in os.environ
)
"""True if the library can be compiled here. In CI it must be."""

_SOURCE: Final = Path(__file__).with_name("faulty_files.c")
_RECORD: Final = struct.Struct("=IIQQqqiiii")
_RULE: Final = struct.Struct("=Iiqqqq88s")
_RULES: Final = 16


class Call(IntEnum):
    """Kinds of calls, with the numbers of ``faulty_files.c``. OPEN includes creation.

    DSYNC, for rules only, is a WRITE to a file opened with O_DSYNC.
    """

    OPEN = 0
    WRITE = 1
    TRUNCATE = 2
    ALLOCATE = 3
    FSYNC = 4
    FDATASYNC = 5
    RENAME = 6
    LINK = 7
    UNLINK = 8
    MKDIR = 9
    RMDIR = 10
    CLOSE = 11
    MSYNC = 12
    RANGE = 13
    MARK = 14
    DSYNC = 15


class Traced(NamedTuple):
    """Recorded call.

    ``path`` and ``other`` are absolute; ``handle`` identifies an open file across processes;
    ``offset`` is the position of a write, or the new size of a file; ``result`` is the return
    value, or a negative errno; ``data`` are the bytes of a write or a mark; ``killed`` is true if
    the process died in the call.
    """

    call: Call
    path: str
    other: str
    handle: int
    flags: int
    offset: int
    result: int
    process: int
    killed: bool
    data: bytes


class FaultyFiles:
    """Preload library for processes that use ``directory``, which is created if missing.

    The trace and the rules are in ``scratch``, which must not be below ``directory``. With
    ``traced`` False nothing is recorded.
    """

    def __init__(self, scratch: str, directory: str, *, traced: bool = True) -> None:
        os.makedirs(directory, exist_ok=True)
        self.trace = os.path.join(scratch, "trace")
        rules = os.path.join(scratch, "rules")
        with open(rules, "wb") as file:
            file.truncate(_RULE.size * _RULES)
        with open(rules, "r+b") as file:
            self._rules = mmap.mmap(file.fileno(), 0)
        self.environment = {
            "LD_PRELOAD": library(),
            "FAULTY_FILES_DIRECTORY": directory,
            "FAULTY_FILES_RULES": rules,
            **({"FAULTY_FILES_TRACE": self.trace} if traced else {}),
        }

    def fail(
        self,
        calls: Collection[Call],
        error: int,
        *,
        name: str = "*",
        skip: int = 0,
        count: int = -1,
        seconds: float = 0,
    ) -> None:
        """Add a rule, which running processes apply at once; see the module."""
        until = time.monotonic_ns() + round(seconds * 1e9) if seconds else 0
        mask = sum(1 << call for call in calls)
        rule = _RULE.pack(mask, error, skip, count, until, 0, name.encode())
        for start in range(0, len(self._rules), _RULE.size):
            if not any(self._rules[start : start + 4]):
                # Write the mask last: it activates the slot.
                self._rules[start + 4 : start + _RULE.size] = rule[4:]
                self._rules[start : start + 4] = rule[:4]
                return
        raise AssertionError("all rule slots are in use")

    def hits(self) -> int:
        """Return the number of calls that the current rules have failed."""
        return sum(rule[5] for rule in _RULE.iter_unpack(self._rules[:]))

    def mend(self) -> None:
        """Remove all rules."""
        self._rules[:] = bytes(len(self._rules))

    def close(self) -> None:
        """Close the rules file; the rules stay active."""
        self._rules.close()


@functools.cache
def library() -> str:
    """Return the path of the library; compile it if the source has changed."""
    # A private directory: other users must not replace the library.
    folder = Path(tempfile.gettempdir()) / f"faulty-files-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), folder
    stamp = f"{_SOURCE.stat().st_mtime_ns:x}-{_SOURCE.stat().st_size:x}"
    path = folder / f"faulty_files-{stamp}.so"
    if not path.exists():
        draft = folder / f"{os.getpid()}.so"
        options = ("-O1", "-Wall", "-shared", "-fPIC", "-pthread")
        subprocess.run(["gcc", *options, "-o", draft, _SOURCE, "-ldl"], check=True)
        draft.replace(path)
    return str(path)


def mark(text: str) -> None:
    """Write a mark into the trace of this process. Without the library do nothing."""
    if "FAULTY_FILES_TRACE" in os.environ:
        data = text.encode()
        _layer().faulty_files_mark(data, ctypes.c_size_t(len(data)))


@functools.cache
def _layer() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def read_trace(path: str) -> Iterator[Traced]:
    """Yield the calls of a trace, in the order of their return."""
    with open(path, "rb") as file:
        while head := file.read(_RECORD.size):
            fields = _RECORD.unpack(head)
            path_size, other_size, data_size, handle, offset, result, call, flags = fields[:8]
            yield Traced(
                Call(call),
                file.read(path_size).decode(),
                file.read(other_size).decode(),
                handle,
                flags,
                offset,
                result,
                fields[8],
                bool(fields[9]),
                file.read(data_size),
            )
