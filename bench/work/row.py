"""What a row of work is, and what it is given to measure one server once."""

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
from bench.servers import STORES, Store, Variant

START_SECONDS = 60.0


class Unmeasurable(Exception):
    """A server cannot do this row here, and no further round will change that."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    ``seconds`` is how long each load lasts, ``fill_limit`` how long filling a store may take at
    most, ``scale`` a fraction of all counts (1 but for trying the bench itself), ``files`` how many
    files a process may have open, ``profiles`` a folder for flame graphs of our own server.
    """

    seconds: float
    full: bool
    fill_limit: float
    scale: float
    files: int
    cores: Cores
    profiles: Path | None = None

    def scaled(self, count: int) -> int:
        """A count of connections, streams or appends."""
        return max(1, round(count * self.scale))


@dataclass
class Kept:
    """What one row keeps of one server between rounds: a directory, and what it knows of it."""

    home: Path
    facts: dict[str, int] = field(default_factory=dict)
    hopeless: str | None = None


@dataclass(frozen=True)
class Trial:
    """One measurement: one server, one row, one round.

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
        """Runs the server while the block runs, with a directory of its own or the one given."""
        process = self.start(home or self.fresh())
        try:
            process.await_answer(f"{ROOT}nothing", START_SECONDS)
            yield process
        finally:
            process.stop()

    def fresh(self) -> Path:
        """A new, empty directory for a server."""
        home = self.folder / f"home{len(list(self.folder.iterdir()))}"
        home.mkdir()
        return home

    def start(self, home: Path) -> Process:
        """Starts the server, and waits for nothing."""
        port = free_port()
        command = self.settings.cores.pin() + self.variant.command(port, home)
        # Nothing is written to, or read from, the home of whoever measures.
        own = {f"XDG_{name}_HOME": str(self.folder) for name in ("DATA", "CONFIG", "CACHE")}
        environment = own | dict(self.variant.environment)
        return Process(command, environment, port, self.folder / "server.log", self._profile())

    def _profile(self) -> Path | None:
        if self.settings.profiles is None or self.variant.server not in ("fast", "klein"):
            return None
        # A row may start its server more than once.
        folder, name = self.settings.profiles, f"{self.label}-{self.variant}".replace(" ", "-")
        return folder / f"{name}-{len(list(folder.glob(f'{name}-*.svg'))) + 1}.svg"


class Row(ABC):
    """A kind of work, and the figures that come of it; the first figure is the headline."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    stores: tuple[Store, ...] = STORES
    needs_wrk = True
    # The bare sender can do it, and shows the limit of the client.
    has_limit = False
    only_full = False

    @abstractmethod
    def measure(self, trial: Trial) -> dict[str, float]:
        """Measures one server once; gives a value for each figure.

        Raises `Unmeasurable`, or what went wrong.
        """

    def fits(self, variant: Variant) -> bool:
        """Whether the row is about such a server."""
        if variant.server == "sender":
            return self.has_limit
        return variant.store in self.stores


def forget(kept: Kept) -> None:
    """Removes what was kept between rounds."""
    shutil.rmtree(kept.home, ignore_errors=True)
