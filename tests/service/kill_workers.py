"""SIGKILL of random processes of a server with workers, under load.

    python -m tests.service.kill_workers --rounds 100
    python -m tests.service.kill_workers --rounds 20 --store memory --seed 7

Each round kills the owner, a front, the spare process, the template or the supervisor, which the
program starts again as systemd would. Idempotent producers append all the time and repeat what was
not acknowledged; live readers resume at their last offset. After each round every acknowledged
message is there once and in order, and readers have received the same. In memory, the owner and
the supervisor are not killed. At the end no process, socket, port or file is left.

Prints a line for each round and exits with 1 if a check fails, or if writes were not possible again
within ``--within`` seconds of a kill, or within three times as long if it was the supervisor's: its
successor has to start Python and to import modules.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from tests.ports import free_port
from tests.service.black_box import PATIENCE, Foreground
from tests.service.workers.server import children_of, is_running, wait_until, workers_in
from tests.traffic import Traffic

STREAMS = 3
SUPERVISOR_FACTOR = 3.0


class Server:
    """Server with workers, which is started again when its supervisor is killed."""

    def __init__(self, directory: Path, workers: int, store: str) -> None:
        self.port = free_port()
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self._directory = directory
        self._arguments = ["durable-streams", f"--workers={workers}"]
        self._arguments += ["--listen", f"tcp:{self.port}:interface=127.0.0.1"]
        if store == "lmdb":
            self._arguments += ["--data-dir", str(directory / "data")]
        # The owner, the template and a spare process, too.
        self.expected = workers + 3
        self.pids: set[int] = set()
        self.log = ""
        self.start()

    def start(self) -> None:
        """Start the supervisor."""
        variables = {"TMPDIR": str(self.temporary)}
        self.process = Foreground(self._directory, *self._arguments, variables=variables)
        with contextlib.suppress(AssertionError):
            self.process.__enter__()
        # Read on in a thread: a full pipe would block the supervisor.
        self._reader = Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def _read(self, process: Foreground) -> None:
        with contextlib.suppress(AssertionError, ValueError):
            while True:
                process.until("\n")

    def children(self) -> list[int]:
        """Return the child processes of the supervisor."""
        found = children_of(self.process.pid)
        self.pids.update(found)
        return found

    def roles(self) -> dict[str, int]:
        """Return the processes by name, once all have started."""
        wait(lambda: len(self.children()) == self.expected, "processes that replace those killed")
        wait(lambda: all(map(is_running, workers_in(self.process.log).values())), "a log line")
        named = workers_in(self.process.log)
        spare = set(self.children()) - set(named.values())
        return {**named, "spare": spare.pop(), "supervisor": self.process.pid}

    def kill(self, name: str, pid: int) -> None:
        """Kill a process; start the supervisor again."""
        os.kill(pid, signal.SIGKILL)
        if name == "supervisor":
            self._reader.join(PATIENCE)
            self.log += self.process.log
            self.process.wait()
            self.start()

    def stop(self) -> None:
        """Stop the server in order."""
        self.children()
        self.process.signal(signal.SIGTERM)
        self._reader.join(PATIENCE)
        self.process.wait()
        self.log += self.process.log


def wait(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    wait_until(condition, lambda: f"no {what} within {PATIENCE:g} s")


def run_round(
    server: Server, traffic: Traffic, victims: list[str], chance: random.Random, within: float
) -> str:
    """Kill one process, and wait until every producer has written again. Return a description."""
    roles = server.roles()
    name = chance.choice([name for name in roles if name.partition("-")[0] in victims])
    time.sleep(chance.random() * 0.3)
    killed = time.monotonic()
    server.kill(name, roles[name])
    # Two acknowledgements: the first may be of an append that was sent before the kill.
    traffic.await_progress(2)
    back = time.monotonic() - killed
    limit = within * (SUPERVISOR_FACTOR if name == "supervisor" else 1)
    if back > limit:
        raise AssertionError(f"{name}: {back:.2f} s until all producers had written again")
    wait(lambda: not children_of(server.process.pid, ended=True), "reaping of killed processes")
    return f"{name:10} process {roles[name]:7}, writes after {back:.2f} s"


def run(rounds: int, workers: int, store: str, seed: str, within: float) -> None:
    """Run all rounds. Raises `AssertionError` if a check fails."""
    chance = random.Random(seed)
    directory = Path(tempfile.mkdtemp())
    server = Server(directory, workers, store)
    traffic = Traffic([server.port], STREAMS, "s")
    victims = ["front", "spare", "template"]
    if store != "memory":
        victims += ["owner", "supervisor"]
    try:
        traffic.start()
        for number in range(1, rounds + 1):
            told = run_round(server, traffic, victims, chance, within)
            wrong = traffic.check()
            assert not wrong, wrong
            print(f"{number:4} {told}", flush=True)
        wrong = traffic.finish()
        assert not wrong, wrong
        server.stop()
        check_nothing_left(server)
    except BaseException:
        print((server.log + server.process.log)[-6000:], flush=True)
        raise
    finally:
        for pid in {*server.pids, server.process.pid}:
            with contextlib.suppress(ProcessLookupError):
                if is_running(pid):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{rounds} rounds: {traffic.report()}")


def check_nothing_left(server: Server) -> None:
    """Check that no process, socket, port or file of the server is left."""
    wait(lambda: not any(map(is_running, server.pids)), "end of all processes")
    left = list(server.temporary.iterdir())
    assert not left, f"files left: {left}"
    assert str(server.temporary) not in Path("/proc/net/unix").read_text(), "a socket is left"
    with socket.socket() as probe:
        # As servers do, so that connections in TIME_WAIT do not make the bind fail.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))
        probe.listen()
    assert "Traceback" not in server.log, "the log has a traceback"


def main() -> int:
    """Parse the command line and run all rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--store", choices=("lmdb", "memory"), default="lmdb")
    parser.add_argument("--seed", default="usual")
    parser.add_argument("--within", type=float, default=2.0, help="seconds until writes succeed")
    arguments = parser.parse_args()
    try:
        run(**vars(arguments))
    except AssertionError as failed:
        print(f"FAILED: {failed}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
