"""What was measured, as it is kept in a file of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Spread, spread


@dataclass(frozen=True)
class Sample:
    """One measurement: a row, a server, a round; and its figures, or why there are none."""

    row: str
    server: str
    store: str
    round: int
    date: str
    figures: dict[str, float]
    failure: str | None = None


@dataclass
class Results:
    """All measurements and what they were made with.

    ``date`` is that of the newest, ``settings`` are numbers and switches by name,
    ``remarks`` are sentences: what could not be measured, what may have disturbed it.
    """

    date: str
    command: str
    machine: str
    versions: dict[str, str]
    settings: dict[str, float]
    remarks: list[str]
    samples: list[Sample] = field(default_factory=list)

    def spreads(self, row: str, server: str, store: str) -> dict[str, Spread]:
        """Median and range of each figure over all rounds that gave one."""
        values: dict[str, list[float]] = {}
        for sample in self.samples:
            if (sample.row, sample.server, sample.store) == (row, server, store):
                for key, value in sample.figures.items():
                    values.setdefault(key, []).append(value)
        return {key: spread(found) for key, found in values.items()}

    def failures(self, row: str, server: str, store: str) -> list[str]:
        """Why rounds gave nothing, each reason once."""
        found = {
            sample.failure: None
            for sample in self.samples
            if (sample.row, sample.server, sample.store) == (row, server, store)
            and sample.failure is not None
        }
        return list(found)

    def replace(self, row: str, server: str, store: str) -> None:
        """Forgets what was measured of one row and one server."""
        self.samples = [
            sample
            for sample in self.samples
            if (sample.row, sample.server, sample.store) != (row, server, store)
        ]

    def save(self, path: Path) -> None:
        """Writes it; a reader never finds half of it."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1) + "\n")
        new.replace(path)


def load(path: Path) -> Results:
    """Reads what `Results.save` has written. Raises `OSError`, `ValueError` or `TypeError`."""
    said: dict[str, Any] = json.loads(path.read_text())
    return Results(**said | {"samples": [Sample(**sample) for sample in said["samples"]]})
