"""SIGKILL of random processes of a server with workers, under load.

    python -m tests.service.kill_workers --rounds 100
    python -m tests.service.kill_workers --rounds 20 --store memory --seed 7

Each round kills the owner, a front, the spare process, the template or the supervisor, which the
program starts again as systemd would. Idempotent producers append all the time and repeat what was
not acknowledged; SSE followers reconnect at their last offset. After each round every acknowledged
message is there once and in order, and followers have received the same. In memory, the owner and
the supervisor are not killed. At the end no process, socket, port or file is left.

Prints a line for each round and exits with 1 if a check fails, or if writes were not possible again
within ``--within`` seconds of a kill, or within three times as long if it was the supervisor's: its
successor has to start Python and to import modules.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event, Thread

from tests.ports import free_port
from tests.service.black_box import PATIENCE, ROOT, Foreground
from tests.service.workers.server import children_of, is_running, workers_in

PRODUCERS = 6
STREAMS = 3
SUPERVISOR_FACTOR = 3.0


class Failed(Exception):
    """A check has failed; the message says which."""


class Client(Thread):
    """Client on a connection of its own, which it opens again after each error."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self.path = path
        self._port = port
        self._stopping = Event()
        self.problem = ""
        self._connection: HTTPConnection | None = None

    def stop(self) -> None:
        """Stop the thread and wait for its end. Raises `Failed` if it has a problem."""
        self._stopping.set()
        # Wake a follower that waits for an event.
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        self.join(PATIENCE)
        if self.problem or self.is_alive():
            raise Failed(self.problem or f"{self.name} does not stop")

    def run(self) -> None:
        """Work until stopped."""
        while not self._stopping.is_set():
            self._connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
            try:
                while not self._stopping.is_set():
                    self.work(self._connection)
            except (OSError, HTTPException):
                # The server or one of its processes was killed.
                time.sleep(0.01)
            except Exception as error:  # noqa: BLE001 - reported by the main thread
                self.problem = f"{self.name}: {error!r}"
                return
            finally:
                self._connection.close()

    def work(self, connection: HTTPConnection) -> None:
        """Send one request. Raises `OSError` or `HTTPException` as connections do."""
        raise NotImplementedError


class Producer(Client):
    """Idempotent producer; ``acknowledged`` is its number of acknowledged messages."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__(port, f"s{number % STREAMS}")
        self.name = f"p{number}"
        self.acknowledged = 0
        self.duplicates = 0

    def work(self, connection: HTTPConnection) -> None:
        """Send the next message, or repeat one that was not acknowledged."""
        header = {
            "Content-Type": "text/plain",
            "Producer-Id": self.name,
            "Producer-Epoch": "0",
            "Producer-Seq": str(self.acknowledged),
        }
        body = f"{self.name}:{self.acknowledged};"
        connection.request("POST", ROOT + self.path, body, header)
        response = connection.getresponse()
        text = response.read()
        if response.status in (200, 204):
            self.acknowledged += 1
            self.duplicates += response.status == 204
        elif response.status == 503:
            time.sleep(0.02)
        else:
            raise Failed(f"{response.status} {text!r}")


class Follower(Client):
    """SSE reader; ``received`` is the text of all events so far."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__(port, f"s{number}")
        self.name = f"f{number}"
        self.received = ""
        self._offset = "-1"
        self.reconnects = 0

    def work(self, connection: HTTPConnection) -> None:
        """Read events until the connection ends."""
        connection.request("GET", f"{ROOT}{self.path}?offset={self._offset}&live=sse")
        response = connection.getresponse()
        if response.status == 503:
            response.read()
            time.sleep(0.02)
            return
        if response.status != 200:
            raise Failed(f"{response.status} {response.read()!r}")
        self.reconnects += 1
        event, data, waiting = "", "", ""
        while line := response.readline().decode():
            line = line.rstrip("\r\n")
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                data += line.removeprefix("data:").removeprefix(" ")
            elif not line and event == "data":
                waiting += data
            elif not line and event == "control":
                # Only now are the data and the next offset both known.
                self.received += waiting
                self._offset, waiting = json.loads(data)["streamNextOffset"], ""
            if not line:
                event, data = "", ""
        raise HTTPException("the event stream has ended")


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
        named = workers_in(self.process.log)
        spare = set(self.children()) - set(named.values())
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
    """Wait until a condition holds. Raises `Failed`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"no {what} within {PATIENCE:g} s")
        time.sleep(0.02)


def content(port: int, path: str) -> str:
    """Return all of a stream."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", ROOT + path)
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                return body.decode()
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise Failed(f"could not read {path}")


def check(port: int, producers: list[Producer], followers: list[Follower]) -> int:
    """Check all streams and followers; return the number of messages."""
    acknowledged = {producer.name: producer.acknowledged for producer in producers}
    found: dict[str, list[int]] = {name: [] for name in acknowledged}
    texts = {}
    for number in range(STREAMS):
        path = f"s{number}"
        texts[path] = text = content(port, path)
        for name, index in re.findall(r"(p\d+):(\d+);", text):
            found[name].append(int(index))
    for name, numbers in found.items():
        if numbers != list(range(len(numbers))):
            raise Failed(f"{name}: messages are missing, repeated or out of order")
        if len(numbers) < acknowledged[name]:
            raise Failed(f"{name}: {acknowledged[name]} acknowledged, {len(numbers)} there")
    for follower in followers:
        expected = texts[follower.path]
        received = partial(_has_received, follower, len(expected))
        wait(received, f"events of {follower.path}")
        if not follower.received.startswith(expected):
            raise Failed(f"{follower.name}: received something else than the stream has")
    return sum(map(len, found.values()))


def _has_received(follower: Follower, size: int) -> bool:
    return len(follower.received) >= size


def run_round(
    server: Server,
    clients: list[Producer],
    victims: list[str],
    chance: random.Random,
    within: float,
) -> str:
    """Kill one process, and wait until every producer has written again. Return a description."""
    roles = server.roles()
    name = chance.choice([name for name in roles if name.partition("-")[0] in victims])
    time.sleep(chance.random() * 0.3)
    killed = time.monotonic()
    server.kill(name, roles[name])
    before = {client: client.acknowledged for client in clients}
    # Two acknowledgements: the first may be of an append that was sent before the kill.
    wait(lambda: all(c.acknowledged > n + 1 for c, n in before.items()), "appends after a kill")
    back = time.monotonic() - killed
    limit = within * (SUPERVISOR_FACTOR if name == "supervisor" else 1)
    if back > limit:
        raise Failed(f"{name}: {back:.2f} s until all producers had written again")
    wait(lambda: not children_of(server.process.pid, ended=True), "reaping of killed processes")
    return f"{name:10} process {roles[name]:7}, writes after {back:.2f} s"


def run(rounds: int, workers: int, store: str, seed: str, within: float) -> None:
    """Run all rounds. Raises `Failed`."""
    chance = random.Random(seed)
    directory = Path(tempfile.mkdtemp())
    server = Server(directory, workers, store)
    producers = [Producer(server.port, number) for number in range(PRODUCERS)]
    followers = [Follower(server.port, number) for number in range(STREAMS)]
    victims = ["front", "spare", "template"]
    if store != "memory":
        victims += ["owner", "supervisor"]
    try:
        for number in range(STREAMS):
            connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            connection.request("PUT", f"{ROOT}s{number}", headers={"Content-Type": "text/plain"})
            connection.getresponse().read()
            connection.close()
        for client in (*producers, *followers):
            client.start()
        for number in range(1, rounds + 1):
            told = run_round(server, producers, victims, chance, within)
            messages = check(server.port, producers, followers)
            print(f"{number:4} {told}, {messages} messages", flush=True)
        for client in (*producers, *followers):
            client.stop()
        check(server.port, producers, [])
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
    duplicates = sum(producer.duplicates for producer in producers)
    reconnects = sum(follower.reconnects for follower in followers)
    print(
        f"{rounds} rounds: {duplicates} repeated messages, {reconnects} reconnections of followers"
    )


def check_nothing_left(server: Server) -> None:
    """Check that no process, socket, port or file of the server is left."""
    wait(lambda: not any(map(is_running, server.pids)), "end of all processes")
    if list(server.temporary.iterdir()):
        raise Failed(f"files left: {list(server.temporary.iterdir())}")
    if str(server.temporary) in Path("/proc/net/unix").read_text():
        raise Failed("a UNIX socket is left")
    with socket.socket() as probe:
        # As servers do, so that connections in TIME_WAIT do not make the bind fail.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))
        probe.listen()
    if "Traceback" in server.log:
        raise Failed("the log has a traceback")


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
    except Failed as failed:
        print(f"FAILED: {failed}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
