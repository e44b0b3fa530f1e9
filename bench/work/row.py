"""Base class of a row of work, and the trial in which it measures one server."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.client import ROOT
from bench.figures import Figure
from bench.machine import Cores, free_port
from bench.process import Process
from bench.servers import OURS, STORES, Store, Variant

START_SECONDS = 60.0


class Unmeasurable(Exception):
    """A server cannot do this row here, in any round."""


@dataclass(frozen=True)
class Settings:
    """Size and duration of measurements.

    ``seconds`` is the duration of a load, ``fill_limit`` the longest time to fill a store,
    ``scale`` a factor of all counts (below 1 to try the benchmark), ``files`` the limit of open
    files, ``profiles`` a directory for flame graphs of this server.
    """

    seconds: float
    full: bool
    fill_limit: float
    scale: float
    files: int
    cores: Cores
    profiles: Path | None = None

    def scaled(self, count: int) -> int:
        """Return a count of connections, streams or appends, scaled."""
        return max(1, round(count * self.scale))


@dataclass
class Kept:
    """Directory and facts that a row keeps of one server between rounds."""

    home: Path
    facts: dict[str, int] = field(default_factory=dict)
    hopeless: str | None = None


@dataclass(frozen=True)
class Trial:
    """Measurement of one server, row and round.

    ``folder`` lasts as long as the measurement.
    """

    variant: Variant
    settings: Settings
    folder: Path
    kept: Kept
    round: int
    label: str

    @contextmanager
    def server(self, home: Path | None = None) -> Iterator[Process]:
        """Run the server during the block, in a new directory or the given one."""
        process = self.start(home or self.fresh())
        try:
            process.await_answer(f"{ROOT}nothing", START_SECONDS)
            yield process
        finally:
            process.stop()

    def fresh(self) -> Path:
        """Return a new, empty directory for a server."""
        home = self.folder / f"home{len(list(self.folder.iterdir()))}"
        home.mkdir()
        return home

    def start(self, home: Path) -> Process:
        """Start the server without waiting."""
        port = free_port()
        command = self.settings.cores.pin() + self.variant.command(port, home)
        # Keep the server out of the user's home directory.
        own = {f"XDG_{name}_HOME": str(self.folder) for name in ("DATA", "CONFIG", "CACHE")}
        environment = own | dict(self.variant.environment)
        return Process(command, environment, port, self.folder / "server.log", self._profile())

    def _profile(self) -> Path | None:
        if self.settings.profiles is None or self.variant.server not in OURS:
            return None
        # A row may start its server more than once.
        folder, name = self.settings.profiles, f"{self.label}-{self.variant}".replace(" ", "-")
        return folder / f"{name}-{len(list(folder.glob(f'{name}-*.svg'))) + 1}.svg"


class Row(ABC):
    """Kind of work and its figures; the first figure is the headline."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    stores: tuple[Store, ...] = STORES
    needs_wrk = True
    # The bare sender shows the limit of the client.
    has_limit = False
    only_full = False

    @abstractmethod
    def measure(self, trial: Trial) -> dict[str, float]:
        """Measure one server once; return a value for each figure.

        Raise `Unmeasurable`, or the error that occurred.
        """

    def fits(self, variant: Variant) -> bool:
        """Return True if the row applies to this server."""
        if variant.server == "sender":
            return self.has_limit
        return variant.store in self.stores


def forget(kept: Kept) -> None:
    """Remove the directory that was kept between rounds."""
    shutil.rmtree(kept.home, ignore_errors=True)
