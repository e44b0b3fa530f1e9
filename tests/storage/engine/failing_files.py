"""Faults of the open files of an LMDB environment and of a WAL, inside their process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from durable_streams_tw.storage.files import DATA_FILE, SEGMENT_FILES

SUPPORTED = os.path.isdir("/proc/self/fdinfo") and os.path.exists("/dev/full")
"""True if the system lists open files in /proc, so that they can be replaced."""


def descriptors(directory: str) -> tuple[int, int]:
    """Return the descriptors by which LMDB writes pages and meta pages."""
    path = os.path.realpath(os.path.join(directory, DATA_FILE))
    pages = meta = -1
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target == path:
            if _flags(name) & os.O_DSYNC:
                meta = int(name)
            else:
                pages = int(name)
    assert pages >= 0, f"{path} is not open"
    return pages, meta


def break_wal(directory: str) -> None:
    """Make writes to the WAL fail until it is reopened."""
    paths = [os.path.realpath(os.path.join(directory, name)) for name in SEGMENT_FILES]
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if path in paths:
            replace(int(name), path, os.O_RDONLY)


def _flags(descriptor: str) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "flags":
                return int(value, 8)
    raise AssertionError(f"descriptor {descriptor} has no flags")


def replace(descriptor: int, path: str, flags: int) -> None:
    """Redirect a descriptor to another file."""
    other = os.open(path, flags)
    os.dup2(other, descriptor)
    os.close(other)


@contextmanager
def pages_fail(directory: str, full: bool) -> Iterator[None]:
    """Make page writes fail: the disk is full or does not accept writes."""
    pages, _ = descriptors(directory)
    whole = os.dup(pages)
    if full:
        replace(pages, "/dev/full", os.O_RDWR)
    else:
        replace(pages, os.path.join(directory, DATA_FILE), os.O_RDONLY)
    try:
        yield
    finally:
        os.dup2(whole, pages)
        os.close(whole)


def break_meta(directory: str) -> None:
    """Make meta page writes fail until the environment is reopened."""
    _, meta = descriptors(directory)
    replace(meta, "/dev/full", os.O_RDWR)
