"""Process with a durable store, for tests that kill it.

Run as ``python -m tests.crash.driver DIRECTORY``. It reads one JSON array per line from its
standard input, ``[number, operation, path, ...]``, and writes one for each to its standard
output, ``[number, outcome, ...]``, in the order in which the store completes them. Its first line
is ``["open", seconds]``.

=========  ==========================================  ====================================
operation  more arguments                              outcome
=========  ==========================================  ====================================
create     body                                        ``"done"``, tail
append     body (or null), producer (or null), closed  ``"done"`` or ``"duplicate"``, tail
repeat     text, times: append so much of it           ``"done"``, tail
fork       source                                      ``"done"``, tail
delete                                                 ``"done"``
read       position                                    ``"read"``, text, tail, closed
digest     position                                    ``"digest"``, size, CRC-32, tail
=========  ==========================================  ====================================

The outcome of a refusal is the slug of its problem. ``CRASH_FILE_LIMIT`` limits the size of files,
in bytes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any
from zlib import crc32

from twisted.internet.interfaces import IReactorCore
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineReceiver

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.limits import KIB
from durable_streams_tw.protocol.streams.bodies import EMPTY, Body
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete, ForkRequest
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import NO_EXPIRY
from durable_streams_tw.storage.api import Chunk, Outcome
from durable_streams_tw.storage.durable.store import DurableStore
from durable_streams_tw.storage.shared.executor import ThreadExecutor

TYPE = "text/plain"

# Small, so that segments are reused many times before the process is killed.
_SEGMENT_SIZE = 64 * KIB


class Driver(LineReceiver):
    """Protocol that carries out one request per line."""

    delimiter = b"\n"
    MAX_LENGTH = 2**24

    def __init__(self, store: DurableStore, reactor: Any) -> None:
        self._store = store
        self._reactor = reactor

    def lineReceived(self, line: bytes) -> None:
        number, operation, path, *arguments = json.loads(line)
        if operation in ("read", "digest"):
            summarize = _read if operation == "read" else _digest
            read = self._store.read(path, arguments[0], 2**20)
            read.addCallback(lambda chunk: self._respond(number, *summarize(chunk)))
            return
        command: Create | Append | Delete
        if operation == "append":
            body, producer, closed = arguments
            command = Append(
                path,
                TYPE,
                None if body is None else Body(body.encode()),
                closed,
                None,
                None if producer is None else ProducerClaim(*producer),
            )
        elif operation == "repeat":
            text, times = arguments
            command = Append(path, TYPE, Body(text.encode() * times))
        elif operation == "delete":
            command = Delete(path)
        elif operation == "fork":
            command = Create(path, None, NO_EXPIRY, False, EMPTY, ForkRequest(arguments[0]))
        else:
            command = Create(path, TYPE, NO_EXPIRY, False, Body(arguments[0].encode()))
        done = self._store.submit(command)
        done.addCallback(lambda outcome: self._respond(number, *_summary(outcome)))

    def _respond(self, *response: object) -> None:
        self.sendLine(json.dumps(response).encode())

    def connectionLost(self, reason: Any = None) -> None:
        self._store.close().addBoth(lambda _: self._reactor.stop())


def _summary(outcome: Outcome) -> tuple[object, ...]:
    if isinstance(outcome, Refusal):
        return (outcome.problem.slug,)
    if isinstance(outcome, Appended):
        return ("duplicate" if outcome.duplicate else "done", outcome.state.tail)
    if isinstance(outcome, Created):
        return ("done" if outcome.fresh else "duplicate", outcome.state.tail)
    return ("done",)


def _read(chunk: Chunk | Refusal) -> tuple[object, ...]:
    if isinstance(chunk, Refusal):
        return (chunk.problem.slug,)
    return ("read", chunk.data.decode(), chunk.state.tail, chunk.state.closed)


def _digest(chunk: Chunk | Refusal) -> tuple[object, ...]:
    if isinstance(chunk, Refusal):
        return (chunk.problem.slug,)
    return ("digest", len(chunk.data), crc32(chunk.data), chunk.state.tail)


def main(directory: str) -> None:
    """Serve requests until standard input ends."""
    from twisted.internet import reactor

    running: Any = reactor
    limit = os.environ.get("CRASH_FILE_LIMIT")
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    started = time.monotonic()
    store = DurableStore(directory, running, ThreadExecutor(running), segment_size=_SEGMENT_SIZE)
    store.open()
    driver = Driver(store, running)
    StandardIO(driver)
    driver.sendLine(json.dumps(["open", time.monotonic() - started]).encode())
    assert IReactorCore.providedBy(running)
    running.run()


if __name__ == "__main__":
    main(sys.argv[1])
