"""Start and stop in order; and what an operator sees when the service cannot start: one
sentence, and exit status 1.

twistd ends with whatever exception a service raises when it starts, and the interpreter
prints the traceback: right for a bug, wrong for a port that is taken. So what is no bug is
said in a sentence on stderr, and its traceback is not printed. A daemon's stderr is gone
when its services start, and its parent, which still waits, passes on a hundred bytes; so a
daemon says it on a copy of stderr that was made before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from durable_streams_tw.concurrency import stop_all
from durable_streams_tw.service import process_tuning
from durable_streams_tw.service.preload import preload
from durable_streams_tw.storage.errors import StoreUnusable


class CannotStart(Exception):
    """The service cannot start, for a reason that is no bug; the message is a sentence."""


class ServiceGroup(MultiService):
    """Services that start one after the other, and stop one by one in reverse.

    ``say`` tells the operator why they do not start; ``started`` is called when they have.
    """

    _log = Logger()

    def __init__(self, say: Callable[[str], None], started: Callable[[], None]) -> None:
        MultiService.__init__(self)
        self._say = say
        self._started = started
        self.log: ILogObserver | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Become part of an application, which logs into ``log`` then, where that is set."""
        if self.log is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.log)
        MultiService.setServiceParent(self, parent)

    def privilegedStartService(self) -> None:
        """Start what needs privileges. Raises `CannotStart`."""
        with self._explained():
            MultiService.privilegedStartService(self)

    def startService(self) -> None:
        """Start. Raises `CannotStart`."""
        preload()
        process_tuning.tune()
        with self._explained():
            MultiService.startService(self)
        self._started()

    def stopService(self) -> Deferred[None]:
        """Stop; fires when the last has stopped."""
        Service.stopService(self)
        return stop_all(*[service.stopService for service in reversed(list(self))])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (CannotStart, StoreUnusable) as error:
            sentence = str(error)
            self._log.critical("Cannot start: {sentence}", sentence=sentence)
            self._say(sentence)
            sys.excepthook = _without_trace
            raise CannotStart("the reason stands above, and in the log") from None


def _without_trace(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, CannotStart):
        sys.__excepthook__(kind, error, trace)


class StderrReporter:
    """Says sentences on stderr: on the one that the process has, or on a copy of it.

    ``keep`` makes the copy now, for a process that is about to become a daemon.
    """

    def __init__(self, *, keep: bool) -> None:
        self._descriptor = os.dup(2) if keep else 2

    def say(self, sentence: str) -> None:
        """Say a sentence."""
        os.write(self._descriptor, f"durable-streams: {sentence}\n".encode())

    def shut(self) -> None:
        """Let go of the copy: a daemon holds no terminal."""
        if self._descriptor != 2:
            os.close(self._descriptor)
            self._descriptor = 2
