"""Model of a disk that keeps flushed data, and loses, tears or reorders all other changes.

`LossyDisk` replays the calls of a trace (`faulty_files`). `power_cut` returns an image of the
possible content of the disk after a power cut:

- bytes that were flushed by fsync or fdatasync, or written through a descriptor with O_DSYNC, are
  kept, with the file size that they need;
- directory entries that were flushed by fsync of their directory are kept; renames are atomic;
- each other write, size and directory entry is kept or lost, independent of earlier and later ones;
- an unflushed write may be kept in part: some sectors, a prefix, or zeros in place of bytes that
  extended the file.

Usual file systems guarantee more. Changes that a failed fsync covered are never safe afterwards, as
on Linux: a later fsync that succeeds does not cover them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from tests.crash.faulty_files import Call, Traced

SECTOR: Final = 512
PAGE: Final = 4096

_FLUSHES: Final = (Call.FSYNC, Call.FDATASYNC)
_TEMPORARY: Final = getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY


class _Change:
    """Write, or change of size if ``data`` is None.

    ``safe`` is set by a flush, ``adrift`` by a failed flush.
    """

    __slots__ = ("adrift", "data", "offset", "safe", "shrinks")

    def __init__(self, offset: int, data: bytes | None, shrinks: bool = False) -> None:
        self.offset = offset
        self.data = data
        self.shrinks = shrinks
        self.safe = self.adrift = False

    def apply(self, content: bytearray) -> None:
        """Apply the change."""
        if self.data is not None:
            _put(content, self.offset, self.data)
        elif self.shrinks:
            _resize(content, self.offset)
        else:
            _extend(content, self.offset)


class _File:
    def __init__(self, content: bytes = b"") -> None:
        # Content of the safe changes before the first unsafe one, and the changes since.
        self.base = bytearray(content)
        self.changes: list[_Change] = []

    def flush(self, failed: bool) -> None:
        """Mark the changes safe, or adrift if the flush failed."""
        for change in self.changes:
            if failed:
                change.adrift = not change.safe
            elif not change.adrift:
                change.safe = True
        self._settle()

    def _settle(self) -> None:
        settled = 0
        for change in self.changes:
            if not change.safe:
                break
            change.apply(self.base)
            settled += 1
        del self.changes[:settled]


class _Directory:
    def __init__(self) -> None:
        self.base: dict[str, _File | _Directory] = {}
        self.current: dict[str, _File | _Directory] = {}
        self.changes: list[dict[str, _File | _Directory | None]] = []

    def change(self, changed: dict[str, _File | _Directory | None]) -> None:
        """Set and remove entries atomically."""
        self.changes.append(changed)
        _set_names(self.current, changed)

    def flush(self) -> None:
        """Mark all entries safe."""
        self.base = dict(self.current)
        self.changes.clear()


_Node = _File | _Directory


class Cut(NamedTuple):
    """Probabilities that unflushed changes are kept.

    ``kept`` is that of each change; ``torn`` that of a kept write to be kept in part only.
    """

    kept: float
    torn: float


NOTHING_KEPT: Final = Cut(0.0, 0.0)
ALL_KEPT: Final = Cut(1.0, 0.0)
HALF_KEPT: Final = Cut(0.5, 0.0)
CUTS: Final = (
    NOTHING_KEPT,
    ALL_KEPT,
    Cut(0.1, 0.5),
    HALF_KEPT,
    Cut(0.5, 0.5),
    Cut(0.9, 0.3),
    Cut(1.0, 0.7),
)


class LossyDisk:
    """Disk below ``root``. Its initial content is the current one, all flushed."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self._top = _loaded(self._root)
        self._handles: dict[int, tuple[_Node, bool]] = {}
        self._unfinished: Callable[[], None] = lambda: None

    def begin(self, call: Traced) -> None:
        """Begin a call: its changes may be kept from now on, and it has flushed nothing."""
        kind = call.call
        if kind is Call.OPEN:
            self._open(call)
        elif kind in _FLUSHES and call.handle:
            self._unfinished = lambda: self._flush(call)
        elif call.result < 0 or not (call.handle or call.path):
            return
        elif kind in (Call.WRITE, Call.TRUNCATE, Call.ALLOCATE):
            self._change(call)
        elif kind is Call.RENAME:
            self._rename(call.path, call.other)
        elif kind in (Call.UNLINK, Call.RMDIR):
            directory, name = self._place(call.path)
            directory.change({name: None})
        elif kind is Call.MKDIR:
            directory, name = self._place(call.path)
            directory.change({name: _Directory()})
        elif kind is Call.LINK:
            directory, name = self._place(call.other)
            directory.change({name: self._find(call.path)})

    def finish(self) -> None:
        """End the call: what it flushes is safe."""
        unfinished, self._unfinished = self._unfinished, lambda: None
        unfinished()

    def power_cut(self, chance: random.Random, cut: Cut, under: str = "") -> Image:
        """Return an image of a power cut at this moment, below a path of the disk."""
        top = self._top if not under else self._find(os.path.join(self._root, under))
        return _image(top, chance, cut)

    # -- calls --------------------------------------------------------------------------------

    def _open(self, call: Traced) -> None:
        if call.result < 0:
            return
        if call.flags & _TEMPORARY:
            # A file without a name is lost in a crash.
            self._handles[call.handle] = (_File(), False)
            return
        if os.path.normpath(call.path) == self._root:
            self._handles[call.handle] = (self._top, False)
            return
        directory, name = self._place(call.path)
        node = directory.current.get(name)
        if node is None:
            assert call.flags & os.O_CREAT, f"{call.path} was opened, but never created"
            node = _File()
            directory.change({name: node})
        if call.flags & os.O_TRUNC:
            assert isinstance(node, _File)
            node.changes.append(_Change(0, None, shrinks=True))
        self._handles[call.handle] = (node, bool(call.flags & os.O_DSYNC))

    def _change(self, call: Traced) -> None:
        file, synchronous = self._handles[call.handle]
        assert isinstance(file, _File)
        data = call.data if call.call is Call.WRITE else None
        change = _Change(call.offset, data, shrinks=call.call is Call.TRUNCATE)
        file.changes.append(change)
        if synchronous and not call.killed:

            def flushed() -> None:
                change.safe = True

            self._unfinished = flushed

    def _flush(self, call: Traced) -> None:
        node, _ = self._handles[call.handle]
        if isinstance(node, _File):
            node.flush(failed=call.result < 0)
        elif call.result >= 0:
            node.flush()

    def _rename(self, old: str, new: str) -> None:
        directory, name = self._place(old)
        target, other = self._place(new)
        moved = directory.current[name]
        assert directory is target, "the model has no renames between directories"
        directory.change({name: None, other: moved})

    # -- names --------------------------------------------------------------------------------

    def _find(self, path: str) -> _Node:
        node: _Node = self._top
        for name in _names(path, self._root):
            assert isinstance(node, _Directory), path
            node = node.current[name]
        return node

    def _place(self, path: str) -> tuple[_Directory, str]:
        parent, name = os.path.split(os.path.normpath(path))
        directory = self._find(parent)
        assert isinstance(directory, _Directory), path
        return directory, name


class Image(NamedTuple):
    """Content of a directory: files and directories by name."""

    files: dict[str, bytes]
    directories: dict[str, Image]

    def write(self, path: str) -> None:
        """Write the image to a directory, which may exist if it is empty."""
        os.makedirs(path, exist_ok=True)
        for name, content in self.files.items():
            descriptor = os.open(os.path.join(path, name), os.O_WRONLY | os.O_CREAT, 0o600)
            with open(descriptor, "wb") as file:
                file.write(content)
        for name, directory in self.directories.items():
            directory.write(os.path.join(path, name))


def _image(node: _Node, chance: random.Random, cut: Cut) -> Image:
    assert isinstance(node, _Directory)
    entries: dict[str, _Node] = dict(node.base)
    for change in node.changes:
        if chance.random() < cut.kept:
            _set_names(entries, change)
    image = Image({}, {})
    for name, entry in sorted(entries.items()):
        if isinstance(entry, _File):
            image.files[name] = _content(entry, chance, cut)
        else:
            image.directories[name] = _image(entry, chance, cut)
    return image


def _content(file: _File, chance: random.Random, cut: Cut) -> bytes:
    if not file.changes:
        return bytes(file.base)
    content = bytearray(file.base)
    for change in file.changes:
        if change.safe:
            change.apply(content)
        elif chance.random() < cut.kept:
            if change.data is not None and chance.random() < cut.torn:
                _tear(content, change.offset, change.data, chance)
            else:
                change.apply(content)
        elif change.data is not None and cut.kept and chance.random() < 0.3:
            # The new size was kept, the bytes were not.
            _extend(content, change.offset + len(change.data))
    return bytes(content)


def _tear(content: bytearray, offset: int, data: bytes, chance: random.Random) -> None:
    """Apply some of the bytes of a write."""
    way = chance.randrange(3)
    if way == 0:
        _put(content, offset, data[: chance.randrange(len(data) + 1)])
        return
    unit = SECTOR if way == 1 else PAGE
    kept = chance.random()
    position = offset
    while position < offset + len(data):
        end = min(position // unit * unit + unit, offset + len(data))
        if chance.random() < kept:
            _put(content, position, data[position - offset : end - offset])
        position = end


def _set_names(entries: dict[str, _Node], changed: dict[str, _Node | None]) -> None:
    for name, node in changed.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _put(content: bytearray, offset: int, data: bytes) -> None:
    _extend(content, offset)
    content[offset : offset + len(data)] = data


def _extend(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))


def _resize(content: bytearray, size: int) -> None:
    _extend(content, size)
    del content[size:]


def _names(path: str, root: str) -> list[str]:
    relative = os.path.relpath(path, root)
    return [] if relative == "." else relative.split(os.sep)


def _loaded(path: str) -> _Directory:
    directory = _Directory()
    for entry in os.scandir(path):
        if entry.is_dir():
            directory.base[entry.name] = _loaded(entry.path)
        else:
            with open(entry.path, "rb") as file:
                directory.base[entry.name] = _File(file.read())
    directory.current = dict(directory.base)
    return directory
