"""Workers, and the process that forks them, as the supervisor sees them."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.process import registerReapProcessHandler, unregisterReapProcessHandler
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from durable_streams_tw.service.settings_table import PREFIX
from durable_streams_tw.service.workers import log_relay, messages
from durable_streams_tw.service.workers.parent import ADOPTS_ORPHANS
from durable_streams_tw.telemetry.metric_samples import Samples

_TEMPLATE: Final = "durable_streams_tw.service.workers.template"
TEMPLATE: Final = "template"
#: Name of a process without a role.
SPARE: Final = "spare"
#: Descriptor of the template's end of its connection; the listening sockets follow.
CONTROL: Final = 3
_RECEIVE: Final = 1 << 16


class TemplateProcess(ProcessProtocol):
    """Child process that forks workers, which inherit the ``sockets``.

    It removes ``directory`` when this process is killed. ``modules`` are imported by it besides
    those of all workers. ``exited`` is called with the way in which it ended.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        directory: str,
        sockets: Sequence[socket.socket],
        modules: Sequence[str],
        exited: Callable[[str], None],
    ) -> None:
        self.name = TEMPLATE
        self.started: float = reactor.seconds()
        self._exited = exited
        #: Fires when the process has ended.
        self.ended: Deferred[None] = Deferred()
        self._control, theirs = socket.socketpair()
        with theirs, open(os.devnull, "rb") as nothing:
            descriptors: dict[int, Any] = {0: nothing.fileno(), 1: "r", 2: "r"}
            inherited = enumerate((theirs, *sockets), CONTROL)
            descriptors.update((number, one.fileno()) for number, one in inherited)
            # -P: the working directory is no place to import from.
            command = [sys.executable, "-P", "-m", _TEMPLATE, str(os.getpid()), directory]
            command += [type(reactor).__module__, *modules]
            environment = child_environment(os.environ)
            #: Id of the process.
            self.pid: int = reactor.spawnProcess(
                self, command[0], command, environment, childFDs=descriptors
            ).pid

    def fork(self, pair: socket.socket) -> None:
        """Have a worker forked with this end of its pair, which is closed here.

        If the template ends before, the pair is closed at this end only.
        """
        with pair, suppress(OSError):
            socket.send_fds(self._control, [b"\0"], [pair.fileno()])

    def kill(self) -> None:
        """Kill the process unless it has ended."""
        if not self.ended.called:
            os.kill(self.pid, signal.SIGKILL)

    def read_output(self) -> None:
        """Log the last output of the process, before the reactor runs."""
        transport: Any = self.transport
        for pipe in list(transport.pipes.values()):
            pipe.doRead()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Log output of the process or of its forks, such as a traceback of the interpreter."""
        for line in data.decode("utf-8", "replace").splitlines():
            self._log.warn("A worker printed: {line}", line=line)

    def processExited(self, reason: Failure) -> None:
        """Report the end of the process."""
        self._control.close()
        status: Any = reason.value
        self._exited(_how(-status.signal if status.signal else status.exitCode))
        self.ended.callback(None)


class WorkerProcess:
    """Process that ``template`` forks. It has no role and no name before its assignment.

    ``received`` is called with its messages, except log records, and ``exited`` with the way in
    which it ended.
    """

    def __init__(
        self,
        reactor: Any,
        template: TemplateProcess,
        received: Callable[[WorkerProcess, messages.ToSupervisor], None],
        exited: Callable[[WorkerProcess, str], None],
    ) -> None:
        #: Name for the log, such as ``front-1``.
        self.name = SPARE
        #: Process that forks this one.
        self.template = template
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
        #: Id of the process, 0 until it is known.
        self.pid = 0
        # Exit status once it is known, and whether the pair is closed.
        self._status: int | None = None
        self._is_closed = False
        self._messages: Any = messages.MessageProtocol(
            messages.decode_for_supervisor, self._message, self._closed
        )
        self._pair, theirs = socket.socketpair()
        template.fork(theirs)

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
        # Closed if the worker has ended, as `read` finds out.
        with suppress(BrokenPipeError):
            messages.write_message(self._pair, assignment)

    def read(self) -> None:
        """Process messages of a worker that starts, before the reactor runs. Blocks."""
        data = b""
        # Reset if the worker ended before it read its assignment.
        with suppress(ConnectionResetError):
            data = self._pair.recv(_RECEIVE)
        if data:
            self._messages.dataReceived(data)
        elif not self.problems:
            ended = self.name if self.pid else TEMPLATE
            self.problems = (f"{ended} ended before it was ready; see the log",)

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
        if isinstance(message, messages.Started):
            self.pid = message.pid
            if ADOPTS_ORPHANS:
                registerReapProcessHandler(self.pid, self)
        elif isinstance(message, messages.Ready):
            self.is_ready = True
        elif isinstance(message, messages.Failed):
            self.problems = message.problems
        self._received(self, message)

    # -- process --------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill the process unless it has ended. One without an id ends when its pair is closed."""
        if self.pid and self.is_running:
            os.kill(self.pid, signal.SIGKILL)
        elif self._messages.transport is None:
            self._pair.close()
        else:
            self._messages.transport.abortConnection()

    def reapProcess(self) -> None:
        """Take the exit status if the process has ended. Twisted calls this on SIGCHLD."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            unregisterReapProcessHandler(self.pid, self)
            self.processEnded(status)

    def processEnded(self, status: int) -> None:
        """Take the exit status, and report the end of the process after its last message."""
        self.is_ready = self.is_running = False
        self._status = os.waitstatus_to_exitcode(status)
        self._report_end()

    def _closed(self) -> None:
        self._is_closed = True
        if not self.pid or not ADOPTS_ORPHANS:
            self.is_ready = self.is_running = False
        self._report_end()

    def _report_end(self) -> None:
        if self._is_closed and not self.is_running:
            self._on_exit(self, _how(self._status))
            self.ended.callback(None)


def _how(status: int | None) -> str:
    """Return how a process ended: with an exit status, or a negative number of a signal."""
    if status is None:
        return "ended"
    return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker.

    It has no settings, which the assignment contains, and nothing that systemd means for the
    supervisor.
    """
    hidden = (PREFIX, "LISTEN_", "NOTIFY_SOCKET")
    kept = {name: value for name, value in environment.items() if not name.startswith(hidden)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return kept
