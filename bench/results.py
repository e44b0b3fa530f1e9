"""Results of all measurements, stored as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Spread, spread


@dataclass(frozen=True)
class Sample:
    """Measurement of one row, server and round: its figures, or the reason why there are none."""

    row: str
    server: str
    store: str
    round: int
    date: str
    figures: dict[str, float]
    failure: str | None = None


@dataclass
class Results:
    """All measurements and their conditions.

    ``date`` is that of the newest, ``settings`` maps names to numbers and switches,
    ``remarks`` are sentences about omitted rows and possible disturbances.
    """

    date: str
    command: str
    machine: str
    versions: dict[str, str]
    settings: dict[str, float]
    remarks: list[str]
    samples: list[Sample] = field(default_factory=list)

    def spreads(self, row: str, server: str, store: str) -> dict[str, Spread]:
        """Return the median and range of each figure over all rounds that have it."""
        values: dict[str, list[float]] = {}
        for sample in self.samples:
            if (sample.row, sample.server, sample.store) == (row, server, store):
                for key, value in sample.figures.items():
                    values.setdefault(key, []).append(value)
        return {key: spread(found) for key, found in values.items()}

    def failures(self, row: str, server: str, store: str) -> list[str]:
        """Return the reasons why rounds have no figures, each once."""
        found = {
            sample.failure: None
            for sample in self.samples
            if (sample.row, sample.server, sample.store) == (row, server, store)
            and sample.failure is not None
        }
        return list(found)

    def replace(self, row: str, server: str, store: str) -> None:
        """Remove the measurements of one row and one server."""
        self.samples = [
            sample
            for sample in self.samples
            if (sample.row, sample.server, sample.store) != (row, server, store)
        ]

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1) + "\n")
        new.replace(path)


def load(path: Path) -> Results:
    """Read a file written by `Results.save`. Raise `OSError`, `ValueError` or `TypeError`."""
    said: dict[str, Any] = json.loads(path.read_text())
    return Results(**said | {"samples": [Sample(**sample) for sample in said["samples"]]})
