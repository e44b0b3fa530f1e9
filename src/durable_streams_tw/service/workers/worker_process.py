"""One worker as the supervisor sees it: a child process and its end of the pair."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.service.settings_table import PREFIX
from durable_streams_tw.service.workers import log_relay, messages
from durable_streams_tw.telemetry.metric_samples import Samples

_PROCESS: Final = "durable_streams_tw.service.workers.process"
#: Name of a process without a role.
SPARE: Final = "spare"
#: Descriptor of the pair in the worker; its listening sockets follow.
PAIR: Final = 3
_RECEIVE: Final = 1 << 16


class WorkerProcess(ProcessProtocol):
    """Child process, which has no role and no name before its assignment.

    ``received`` is called with its messages, except log records, and ``exited`` with the way in
    which it ended. It inherits the ``sockets``.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        sockets: Sequence[socket.socket],
        received: Callable[[WorkerProcess, messages.ToSupervisor], None],
        exited: Callable[[WorkerProcess, str], None],
    ) -> None:
        #: Name for the log, such as ``front-1``.
        self.name = SPARE
        self._reactor = reactor
        self._received = received
        self._on_exit = exited
        #: Time of the start or the assignment, by the reactor's clock.
        self.started: float = reactor.seconds()
        #: True while the worker serves.
        self.is_ready = False
        #: Messages that say why the worker cannot start.
        self.problems: tuple[str, ...] = ()
        self.samples: Samples = ()
        #: Fires when the process has ended.
        self.ended: Deferred[None] = Deferred()
        self.is_running = True
        self._messages: Any = messages.MessageProtocol(
            messages.decode_for_supervisor, self._message, lambda: None
        )
        self._pair, theirs = socket.socketpair()
        with theirs, open(os.devnull, "rb") as nothing:
            inherited = [theirs, *sockets]
            descriptors: dict[int, Any] = {0: nothing.fileno(), 1: "r", 2: "r"}
            descriptors.update((PAIR + n, one.fileno()) for n, one in enumerate(inherited))
            # -P: the working directory is no place to import from.
            command = [sys.executable, "-P", "-m", _PROCESS, type(reactor).__module__]
            environment = child_environment(os.environ)
            #: Id of the process.
            self.pid: int = reactor.spawnProcess(
                self, command[0], command, environment, childFDs=descriptors
            ).pid

    # -- messages -------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor of the pair, for a selector."""
        return self._pair.fileno()

    def assign(self, name: str, assignment: messages.Assignment) -> None:
        """Give the process its name and role. Blocks until it reads, before the reactor runs."""
        self.name = name
        self.started = self._reactor.seconds()
        if self._messages.transport is not None:
            self.send(assignment)
            return
        frame = messages.encode(assignment)
        self._pair.sendall(len(frame).to_bytes(4, "big") + frame)

    def read(self) -> None:
        """Process messages of a worker that starts, before the reactor runs. Blocks."""
        data = b""
        # Reset if the worker ended before it read its assignment.
        with suppress(ConnectionResetError):
            data = self._pair.recv(_RECEIVE)
        if data:
            self._messages.dataReceived(data)
        elif not self.problems:
            transport: Any = self.transport
            for pipe in list(transport.pipes.values()):
                pipe.doRead()
            self.problems = (f"{self.name} ended before it was ready; see the log",)

    def adopt(self) -> None:
        """Leave the pair to the reactor."""
        self._pair.setblocking(False)
        with self._pair as pair:
            factory: Any = Factory.forProtocol(lambda: self._messages)
            factory.noisy = False
            # The reactor duplicates the descriptor.
            self._reactor.adoptStreamConnection(pair.fileno(), socket.AF_UNIX, factory)

    def send(self, message: messages.ToWorker) -> None:
        """Send a message, unless the worker has ended."""
        self._messages.send(message)

    def _message(self, message: messages.ToSupervisor) -> None:
        if isinstance(message, messages.LogRecord):
            log_relay.publish(message, self.name)
            return
        if isinstance(message, messages.Ready):
            self.is_ready = True
        elif isinstance(message, messages.Failed):
            self.problems = message.problems
        self._received(self, message)

    # -- process --------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill the process unless it has ended."""
        if self.is_running:
            os.kill(self.pid, signal.SIGKILL)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Log output of the process, such as a traceback of the interpreter."""
        for line in data.decode("utf-8", "replace").splitlines():
            self._log.warn("{worker} printed: {line}", worker=self.name, line=line)

    def processExited(self, reason: Failure) -> None:
        """Report the end of the process."""
        self.is_ready = self.is_running = False
        self._on_exit(self, _how(reason))
        self.ended.callback(None)


def _how(reason: Failure) -> str:
    """Return how a process ended."""
    status: Any = reason.value
    if status.signal is not None:
        return f"was killed by signal {status.signal}"
    return f"exited with status {status.exitCode}"


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker.

    It has no settings, which the assignment contains, and nothing that systemd means for the
    supervisor.
    """
    hidden = (PREFIX, "LISTEN_", "NOTIFY_SOCKET")
    kept = {name: value for name, value in environment.items() if not name.startswith(hidden)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return kept
