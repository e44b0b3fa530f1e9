"""Exactly-once check: a producer and a follower through a bad proxy to a server that is killed.

    python -m tests.client.kill_producer --kills 200 [--seed N]

The server stores to disk and is killed with SIGKILL again and again. The proxy in front of it
answers with 502 and closes connections at random, before or after the server has carried out the
request. Each message must be in the stream once, in order, and the follower must have seen it once,
in order. The exit status is 0 if that holds.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater, react

from durable_streams_tw.client import Delivery, RetryPolicy, StreamClient
from tests.client.fault_proxy import Fault, FaultProxy
from tests.ports import free_port
from tests.service.black_box import command, environment

FOREVER = RetryPolicy(retry_for=None, initial_delay=0.02, max_delay=0.2)

FAULTS = (
    Fault(status=502),
    Fault(status=502, forward=True),
    Fault(drop=True),
    Fault(drop=True, forward=True),
    Fault(delay=0.05),
)
#: Part of the requests that meet a fault.
FAULT_RATE = 0.2


class Server:
    """Service in a process of its own, killed and started again on the same port and data."""

    def __init__(self, reactor: Any, folder: Path) -> None:
        self._reactor = reactor
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the process and wait until it accepts connections."""
        line = command("--pidfile=", "-n", "durable-streams", "--interface=127.0.0.1")
        line += [f"--port={self.port}", f"--data-dir={self._folder / 'data'}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                line, cwd=self._folder, env=environment(), stdout=log, stderr=log
            )
        endpoint = TCP4ClientEndpoint(self._reactor, "127.0.0.1", self.port)
        while True:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            try:
                connected: Any = await connectProtocol(endpoint, Protocol())
            except ConnectError:
                await deferLater(self._reactor, 0.02)
            else:
                connected.transport.abortConnection()
                return

    def kill(self) -> None:
        """Kill the process."""
        assert self._process is not None, "the process was not started"
        self._process.kill()
        self._process.wait()


class Outcome:
    """Counts of a run. ``stored`` and ``seen`` are the messages in the stream and the follower."""

    def __init__(self) -> None:
        self.sent = self.acknowledged = self.kills = self.faults = 0
        self.stored: list[Any] = []
        self.seen: list[Any] = []

    @property
    def is_exact(self) -> bool:
        """True if each message is stored and was seen once, in order."""
        expected = list(range(self.sent))
        return self.sent == self.acknowledged and expected == self.stored == self.seen


async def run(
    reactor: Any, folder: Path, kills: int, seed: int, report: Callable[[str], object]
) -> Outcome:
    """Kill the server ``kills`` times while messages are appended and followed."""
    chance = random.Random(seed)
    outcome = Outcome()
    server = Server(reactor, folder)
    await server.start()

    def choose(method: str, path: str) -> Fault | None:
        if outcome.kills >= kills or chance.random() > FAULT_RATE:
            return None
        outcome.faults += 1
        return chance.choice(FAULTS)

    proxy = FaultProxy(reactor, server.port, choose)
    await proxy.start()
    try:
        async with StreamClient(
            f"http://127.0.0.1:{proxy.port}/v1/stream/", retry=FOREVER
        ) as client:
            stream = client.stream("numbers")
            await stream.create("application/json")
            following = Deferred.fromCoroutine(_follow(client, outcome))
            producing = Deferred.fromCoroutine(_produce(reactor, client, kills, outcome))
            while outcome.kills < kills:
                goal = outcome.acknowledged + chance.randint(1, 60)
                while outcome.acknowledged < goal:
                    await deferLater(reactor, 0.005)
                server.kill()
                outcome.kills += 1
                await server.start()
                if outcome.kills % 20 == 0:
                    report(f"{outcome.kills} kills, {outcome.acknowledged} messages acknowledged")
            await producing
            await following
            outcome.stored = await stream.read_json()
    finally:
        await proxy.stop()
        server.kill()
    return outcome


async def _produce(reactor: Any, client: StreamClient, kills: int, outcome: Outcome) -> None:
    async def note(delivery: Delivery) -> None:
        await delivery
        outcome.acknowledged += 1

    async with client.stream("numbers").producer(
        "counter", linger=0.002, max_batch_messages=7, max_in_flight=4, max_buffered_bytes=400
    ) as producer:
        notes = []
        while outcome.kills < kills:
            notes.append(Deferred.fromCoroutine(note(await producer.append_json(outcome.sent))))
            outcome.sent += 1
            # Nothing waits while there is room: let the other coroutines run.
            await deferLater(reactor, 0)
        await producer.close()
        for deferred in notes:
            await deferred


async def _follow(client: StreamClient, outcome: Outcome) -> None:
    async for batch in client.stream("numbers").follow():
        outcome.seen += batch.json()


async def main(reactor: Any, kills: int, seed: int) -> None:
    """Run the check and print the result."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="durable-streams-") as folder:
        outcome = await run(
            reactor, Path(folder), kills, seed, lambda line: print(line, flush=True)
        )
    print(
        f"{outcome.kills} kills, {outcome.faults} faults of the proxy, {outcome.sent} messages, "
        f"{len(outcome.stored)} stored, {len(outcome.seen)} seen by the follower, seed {seed}, "
        f"{time.monotonic() - began:.0f} s: {'exactly once' if outcome.is_exact else 'WRONG'}"
    )
    if not outcome.is_exact:
        print(json.dumps({"stored": outcome.stored, "seen": outcome.seen})[:2000])
        sys.exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, given.kills, given.seed)))
