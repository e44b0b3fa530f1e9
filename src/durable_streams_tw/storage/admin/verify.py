"""Verification of an inspected store, with progress reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from durable_streams_tw.storage.admin.copy import Progress
from durable_streams_tw.storage.admin.fsck.findings import Finding
from durable_streams_tw.storage.admin.fsck.store import check
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.engine.kv import Buffer, Snapshot

# Records between two progress reports.
_REPORT_EVERY: Final = 4096

# Findings that a `FlawedStore` carries.
_MAX_FINDINGS: Final = 20


class FlawedStore(Exception):
    """Failed check of a store: the first ``findings``, and the ``count`` of all."""

    def __init__(self, where: str, findings: list[Finding], count: int) -> None:
        first = findings[0]
        super().__init__(
            f"{where} has flaws ({count}), the first: {first.flaw.value}: {first.detail}"
        )
        self.findings = findings
        self.count = count


class ProgressSource:
    """Snapshot source that reports progress while a snapshot is scanned."""

    def __init__(self, source: Inspection, progress: Progress, activity: str = "checking") -> None:
        self._source = source
        self._progress = progress
        self._activity = activity
        self._total = source.usage().entries
        self._count = 0

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Return a snapshot of the last commit. Raises `EngineFailed`."""
        with self._source.snapshot() as view:
            yield _ProgressSnapshot(view, self._step)
        self._progress(self._activity, self._count, self._count)

    def _step(self) -> None:
        # Some pairs are scanned twice, so the total is an estimate.
        self._count += 1
        if self._count % _REPORT_EVERY == 0:
            self._progress(self._activity, self._count, max(self._total, self._count))


class _ProgressSnapshot:
    def __init__(self, view: Snapshot, step: Callable[[], None]) -> None:
        self.version = view.version
        self.get = view.get
        self.scan_from_floor = view.scan_from_floor
        self._scan = view.scan
        self._step = step

    def scan(self, first: bytes, stop: bytes) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield the pairs with ``first <= key < stop``, in order."""
        for pair in self._scan(first, stop):
            self._step()
            yield pair


def ignore_progress(_activity: str, _done: int, _total: int) -> None:
    """Ignore a progress report."""


def find_flaws(
    source: Inspection, deep: bool, progress: Progress = ignore_progress
) -> Iterator[Finding]:
    """Yield the flaws of a store and of its write-ahead log.

    ``deep`` parses every JSON message too. Raises `StoreUnusable`.
    """
    yield from source.wal_findings()
    yield from check(ProgressSource(source, progress), deep)


def verify(
    source: Inspection,
    where: str,
    progress: Progress,
    *,
    deep: bool = False,
    tolerant: bool = False,
) -> int:
    """Return the number of flaws of a store. Raises `FlawedStore` if any, unless ``tolerant``."""
    first: list[Finding] = []
    count = 0
    for finding in find_flaws(source, deep, progress):
        count += 1
        if len(first) < _MAX_FINDINGS:
            first.append(finding)
    if count and not tolerant:
        raise FlawedStore(where, first, count)
    return count


def refuse_flawed_wal(source: Inspection, where: str, tolerant: bool) -> None:
    """Raise `FlawedStore` if the write-ahead log is damaged, unless ``tolerant``.

    Call before a copy: it contains the readable entries only, and shows no sign of the others.
    """
    findings = source.wal_findings()
    if findings and not tolerant:
        raise FlawedStore(where, findings, len(findings))
