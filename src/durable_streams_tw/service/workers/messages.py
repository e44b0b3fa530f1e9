"""Messages between the supervisor and a worker, over their pair of connected sockets.

Each is one frame: four bytes of length (big-endian), then a tagged array in MessagePack. Secrets
travel here, because command lines and environments are visible to others.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from twisted.protocols.basic import Int32StringReceiver

from durable_streams_tw.service.workers.limits import MAX_MESSAGE
from durable_streams_tw.telemetry.metric_samples import Samples

Role = Literal["owner", "front", "node"]
"""Kind of a worker: it holds the store, serves HTTP for the owner, or does both with a database."""


class PortNotice(Struct, frozen=True, array_like=True):
    """URL of the streams at a listening port, None if it has none, and whether it is loopback."""

    url: str | None
    loopback: bool


# -- from the supervisor -----------------------------------------------------------------------


class Assignment(Struct, frozen=True, tag=0, array_like=True):
    """First message to a worker: its role and all that it needs.

    ``given`` has the texts of the settings; relative paths in them are relative to ``given_in``,
    and ``runs_in`` is the working directory after the start. ``address`` is the path of the
    owner's socket. The worker has inherited ``inherited`` listening sockets, of which it serves
    those at the positions ``served``, one for each endpoint; their URLs are in ``notices``.
    ``first`` is false after a restart.
    """

    role: Role
    given: dict[str, tuple[str, ...]]
    given_in: str
    runs_in: str
    address: str
    inherited: int
    served: tuple[int, ...]
    workers: int
    notices: tuple[PortNotice, ...]
    first: bool


class Reload(Struct, frozen=True, tag=2, array_like=True):
    """Reload certificates; answered by `Reloaded`."""


class OwnerReady(Struct, frozen=True, tag=1, array_like=True):
    """A new owner accepts connections."""


class Stop(Struct, frozen=True, tag=3, array_like=True):
    """Stop and exit."""


class OtherUsage(Struct, frozen=True, tag=4, array_like=True):
    """Use of shared limits by the other fronts.

    ``connections`` is their number of connections; ``addresses`` has the number for each client
    address that changed, and ``requests`` the requests of each client since the last message.
    """

    connections: int
    addresses: dict[str, int]
    requests: dict[str, int]


class AllSamples(Struct, frozen=True, tag=5, array_like=True):
    """Metrics of all workers, by name of the worker, and the totals of workers that ended."""

    number: int
    workers: dict[str, Samples]
    ended: Samples


class WebhookErrors(Struct, frozen=True, tag=6, array_like=True):
    """Last errors of webhook calls by id of the subscription, for the console."""

    errors: dict[str, str]


# -- from a worker -----------------------------------------------------------------------------


class Started(Struct, frozen=True, tag=9, array_like=True):
    """First message of a worker, which waits for its assignment: the id of its process."""

    pid: int


class Ready(Struct, frozen=True, tag=10, array_like=True):
    """The worker serves."""


class Failed(Struct, frozen=True, tag=11, array_like=True):
    """The worker cannot start; the messages say why."""

    problems: tuple[str, ...]


class LogRecord(Struct, frozen=True, tag=12, array_like=True):
    """Log event as JSON."""

    event: str


class Reloaded(Struct, frozen=True, tag=13, array_like=True):
    """Answer to `Reload`."""


class OwnSamples(Struct, frozen=True, tag=14, array_like=True):
    """Current metrics of a worker, and of the owner `WebhookErrors`."""

    samples: Samples
    errors: dict[str, str]


class SamplesRequest(Struct, frozen=True, tag=15, array_like=True):
    """Request for `AllSamples` with the same number."""

    number: int


class Heartbeat(Struct, frozen=True, tag=17, array_like=True):
    """Message that a worker runs: one when it has read its assignment, and more once it serves."""


class OwnUsage(Struct, frozen=True, tag=16, array_like=True):
    """Use of shared limits by a front: see `OtherUsage`."""

    connections: int
    addresses: dict[str, int]
    requests: dict[str, int]


ToWorker = Assignment | OwnerReady | Reload | Stop | OtherUsage | AllSamples | WebhookErrors
ToSupervisor = (
    Started
    | Ready
    | Failed
    | LogRecord
    | Reloaded
    | OwnSamples
    | SamplesRequest
    | OwnUsage
    | Heartbeat
)

encode: Final = msgspec.msgpack.Encoder().encode
decode_for_worker: Final = msgspec.msgpack.Decoder(ToWorker).decode
decode_for_supervisor: Final = msgspec.msgpack.Decoder(ToSupervisor).decode


class MessageProtocol(Int32StringReceiver):
    """One end of a pair.

    ``received`` is called with each message, ``lost`` when the other end is closed.
    """

    MAX_LENGTH = MAX_MESSAGE

    def __init__(
        self,
        decode: Callable[[bytes], Any],
        received: Callable[[Any], None],
        lost: Callable[[], None],
    ) -> None:
        self._decode = decode
        self._received = received
        self._lost = lost
        # Messages that are sent before the reactor has the pair.
        self._early: list[bytes] = []

    def connectionMade(self) -> None:
        """Send what has been waiting."""
        early, self._early = self._early, []
        for frame in early:
            self._send(frame)

    def send(self, message: ToWorker | ToSupervisor) -> None:
        """Send a message, unless the other end is closed."""
        transport: Any = self.transport
        if transport is None:
            self._early.append(encode(message))
        elif transport.connected:
            self._send(encode(message))

    def _send(self, frame: bytes) -> None:
        untyped: Any = self
        untyped.sendString(frame)

    def stringReceived(self, string: bytes) -> None:
        """Decode a message."""
        self._received(self._decode(string))

    def connectionLost(self, reason: Any = None) -> None:
        """Report the end of the other process."""
        self._lost()


def read_message(pair: socket.socket, decode: Callable[[bytes], Any]) -> Any:
    """Read one message and block until it is there. Raises `EOFError` at the end of the pair."""
    size = int.from_bytes(_read(pair, 4), "big")
    return decode(_read(pair, size))


def write_message(pair: socket.socket, message: ToWorker | ToSupervisor) -> None:
    """Write one message and block until it is sent. Raises `OSError` if the pair is closed."""
    frame = encode(message)
    pair.sendall(len(frame).to_bytes(4, "big") + frame)


def _read(pair: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = pair.recv(size - len(data))
        if not part:
            raise EOFError("the other process has closed the pair")
        data += part
    return bytes(data)
