"""A model of a store: the state after each command, and what has been acknowledged of it.

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

from durable_streams_tw.protocol.bodies import NOTHING, Body
from durable_streams_tw.protocol.errors import Refusal
from durable_streams_tw.protocol.outcomes import Appended, Created
from durable_streams_tw.protocol.producers import ProducerClaim
from durable_streams_tw.protocol.requests import Append, Create, Delete, ForkRequest
from durable_streams_tw.protocol.state import FOR_EVER
from durable_streams_tw.storage.interfaces import Command, Outcome

TYPE = "text/plain"

Operation = list[Any]
Contents = Mapping[str, tuple[bytes, bool]]
"""Streams by path: their bytes, and whether they are closed."""


@dataclass(frozen=True)
class State:
    """A store. ``producers`` has the last sequence number of each, by path and name; ``closers``
    the producer's message that closed a stream, by path."""

    streams: dict[str, tuple[bytes, bool]] = field(default_factory=dict)
    producers: dict[tuple[str, str], int] = field(default_factory=dict)
    forked: frozenset[str] = frozenset()

    def after(self, operation: Operation) -> tuple[State, str]:
        """The state after a command, and its outcome."""
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
    """A short name of what all streams hold."""
    whole = hashlib.sha256()
    for path, (content, closed) in sorted(contents.items()):
        whole.update(b"%d %d %b %d;" % (len(path), len(content), path.encode(), closed))
        whole.update(content)
    return whole.hexdigest()[:32]


def command(operation: Operation) -> Command:
    """The command that a store takes."""
    word, path, *arguments = operation
    if word == "create":
        text, times = arguments
        return Create(path, TYPE, FOR_EVER, False, Body(text.encode() * times))
    if word == "fork":
        return Create(path, None, FOR_EVER, False, NOTHING, ForkRequest(arguments[0]))
    if word == "delete":
        return Delete(path)
    text, times, producer, closes = arguments
    claim = None if producer is None else ProducerClaim(producer[0], 0, producer[1])
    return Append(path, TYPE, Body(text.encode() * times), closes, None, claim)


def outcome_of(outcome: Outcome) -> str:
    """An outcome in a word."""
    if isinstance(outcome, Refusal):
        return outcome.problem.slug
    if isinstance(outcome, Created):
        return "done" if outcome.fresh else "duplicate"
    if isinstance(outcome, Appended):
        return "duplicate" if outcome.duplicate else "done"
    return "done"


class Ledger:
    """What a store may hold, from the marks of the process that had it.

    ``{"do": operation}`` is written when a command is submitted, ``{"told": outcome}`` when it is
    answered, in the order of the commands, and ``{"seen": digest}`` when somebody has read all
    streams: then no other state is possible any more. ``acknowledged`` says whether anything was
    answered.
    """

    def __init__(self, states: list[State] | None = None) -> None:
        # Each list has the states that are possible after so many commands. Those of the first
        # are acknowledged, all others may have happened too.
        self._states = [[State()] if states is None else states]
        self._submitted: list[Operation] = []
        self.acknowledged = states is not None

    def take(self, mark: dict[str, Any]) -> None:
        """Take in a mark."""
        if "do" in mark:
            self._submitted.append(mark["do"])
            self._states.append([state.after(mark["do"])[0] for state in self._states[-1]])
        elif "told" in mark:
            self.acknowledged = True
            self._told(mark["told"])
        elif "seen" in mark:
            found = [state for state in self.possible() if digest(state.streams) == mark["seen"]]
            assert found, "what was read is nothing that was written"
            self._states, self._submitted = [found[:1]], []

    def _told(self, outcome: str) -> None:
        operation = self._submitted.pop(0)
        before = self._states[0]
        if outcome in ("done", "duplicate"):
            after = [state.after(operation) for state in before]
            del self._states[0]
            self._states[0] = [state for state, expected in after if expected == outcome]
            assert self._states[0], f"{operation} was answered {outcome}"
        elif outcome == "outcome-unknown":
            self._restart([*before, *[state.after(operation)[0] for state in before]])
        else:
            self._restart(before)

    def _restart(self, states: list[State]) -> None:
        """Begin from other states, with the commands that are still submitted."""
        self._states = [states]
        for operation in self._submitted:
            self._states.append([state.after(operation)[0] for state in self._states[-1]])

    def possible(self) -> list[State]:
        """The states that the store may be in, the latest last."""
        return [state for states in self._states for state in states]


def marked(data: bytes) -> dict[str, Any]:
    """The content of a mark."""
    found: dict[str, Any] = json.loads(data)
    return found
