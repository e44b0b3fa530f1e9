"""Model of a store: its state after each command, and the acknowledged states.

A command is a JSON list:

=========  =================================================================
operation  more arguments
=========  =================================================================
create     path, text, times
append     path, text, times, producer (``[name, sequence]`` or null), closed
fork       path, source
delete     path
=========  =================================================================

Its body is ``text``, ``times`` over. An outcome is ``"done"``, ``"duplicate"``, or the slug of the
problem with which it was refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.streams.bodies import EMPTY, Body
from durable_streams_tw.protocol.streams.commands import Append, Create, Delete, ForkRequest
from durable_streams_tw.protocol.streams.outcomes import Appended, Created
from durable_streams_tw.protocol.streams.producers import ProducerClaim
from durable_streams_tw.protocol.streams.state import NO_EXPIRY
from durable_streams_tw.storage.api import Command, Outcome

TYPE = "text/plain"

Operation = list[Any]
Contents = Mapping[str, tuple[bytes, bool]]
"""Streams by path: bytes, and whether the stream is closed."""


@dataclass(frozen=True)
class State:
    """State of a store.

    ``producers`` has the last sequence number of each producer, by path and name; ``closers`` has
    the producer's message that closed a stream, by path.
    """

    streams: dict[str, tuple[bytes, bool]] = field(default_factory=dict)
    producers: dict[tuple[str, str], int] = field(default_factory=dict)
    forked: frozenset[str] = frozenset()

    def after(self, operation: Operation) -> tuple[State, str]:
        """Return the state after a command, and the outcome."""
        word, path, *arguments = operation
        streams, producers = dict(self.streams), dict(self.producers)
        found = streams.get(path)
        if word == "create":
            if found is not None:
                return self, "duplicate"
            text, times = arguments
            streams[path] = (text.encode() * times, False)
        elif word == "fork":
            (source,) = arguments
            if found is not None:
                return self, "duplicate"
            streams[path] = (streams[source][0], False)
            return State(streams, producers, self.forked | {source}), "done"
        elif found is None:
            return self, "stream-gone" if path in self.forked else "stream-not-found"
        elif word == "delete":
            del streams[path]
            for key in [key for key in producers if key[0] == path]:
                del producers[key]
        else:
            text, times, producer, closes = arguments
            content, closed = found
            if closed:
                return self, "stream-closed"
            if producer is not None:
                name, sequence = producer
                if sequence <= producers.get((path, name), -1):
                    return self, "duplicate"
                producers[path, name] = sequence
            streams[path] = (content + text.encode() * times, closes)
        return State(streams, producers, self.forked), "done"


def digest(contents: Contents) -> str:
    """Return a digest of the content of all streams."""
    whole = hashlib.sha256()
    for path, (content, closed) in sorted(contents.items()):
        whole.update(b"%d %d %b %d;" % (len(path), len(content), path.encode(), closed))
        whole.update(content)
    return whole.hexdigest()[:32]


def command(operation: Operation) -> Command:
    """Return the store command of an operation."""
    word, path, *arguments = operation
    if word == "create":
        text, times = arguments
        return Create(path, TYPE, NO_EXPIRY, False, Body(text.encode() * times))
    if word == "fork":
        return Create(path, None, NO_EXPIRY, False, EMPTY, ForkRequest(arguments[0]))
    if word == "delete":
        return Delete(path)
    text, times, producer, closes = arguments
    claim = None if producer is None else ProducerClaim(producer[0], 0, producer[1])
    return Append(path, TYPE, Body(text.encode() * times), closes, None, claim)


def outcome_of(outcome: Outcome) -> str:
    """Return an outcome as one word."""
    if isinstance(outcome, Refusal):
        return outcome.problem.slug
    if isinstance(outcome, Created):
        return "done" if outcome.fresh else "duplicate"
    if isinstance(outcome, Appended):
        return "duplicate" if outcome.duplicate else "done"
    return "done"


class Ledger:
    """Possible states of a store, from the marks of its process.

    ``{"do": operation}`` is written when a command is submitted, and ``{"told": outcome}`` when its
    outcome is known, in the order of the commands. ``{"seen": digest}`` is written when a process
    has read all streams after opening the store: no other state is possible then.
    ``{"found": digest}`` is written when it has read them after an unknown outcome: the store
    continues from that state, but until the next command is done, a crash may restore the other.

    ``acknowledged`` is true once any outcome was known.
    """

    def __init__(self, states: list[State] | None = None, acknowledged: bool = False) -> None:
        # Acknowledged states: one, or more while an outcome is unknown.
        self._settled = [State()] if states is None else states
        # Those of them from which the store may continue.
        self._going_on = self._settled
        self._submitted: list[Operation] = []
        self.acknowledged = acknowledged

    def take(self, mark: dict[str, Any]) -> None:
        """Process a mark."""
        if "do" in mark:
            self._submitted.append(mark["do"])
        elif "told" in mark:
            self._told(mark["told"])
        else:
            held = mark.get("seen", mark.get("found"))
            found = [state for state in self.possible() if digest(state.streams) == held][:1]
            assert found, "the content that was read was never written"
            self._going_on, self._submitted = found, []
            if "seen" in mark:
                self._settled = found

    def _told(self, outcome: str) -> None:
        self.acknowledged = True
        operation = self._submitted.pop(0)
        carried_out = [state.after(operation) for state in self._going_on]
        if outcome in ("done", "duplicate"):
            self._going_on = [state for state, expected in carried_out if expected == outcome]
            assert self._going_on, f"unexpected outcome {outcome} of {operation}"
            self._settled = self._going_on
        elif outcome == "outcome-unknown":
            self._going_on = [*self._going_on, *[state for state, _ in carried_out]]
            self._settled = [*self._settled, *[state for state, _ in carried_out]]

    def possible(self) -> list[State]:
        """Return the possible states of the store, the latest last."""
        found, states = list(self._settled), self._going_on
        for operation in self._submitted:
            states = [state.after(operation)[0] for state in states]
            found += states
        return found


def marked(data: bytes) -> dict[str, Any]:
    """Decode a mark."""
    found: dict[str, Any] = json.loads(data)
    return found
