"""Running a client command: reactor, signals, exit status, and what goes to the terminal."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

import click
from msgspec import json
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from durable_streams_tw.cli.registry import PROGRAM
from durable_streams_tw.client.errors import (
    BadProducer,
    BadTarget,
    ClientError,
    Fenced,
    OutcomeUnknown,
    Rejected,
    Unreachable,
    Untrusted,
)

#: Exit statuses, as docs/client.md has them. 2 is click's, for a command line that is wrong.
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
NOT_ALLOWED: Final = 5
UNREACHABLE: Final = 6
UNKNOWN_OUTCOME: Final = 7
#: What a shell reports of a program that SIGPIPE has ended.
OUTPUT_CLOSED: Final = 128 + signal.SIGPIPE

_STATUSES: Final = {
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: NOT_FOUND,
    409: CONFLICT,
    410: NOT_FOUND,
    **dict.fromkeys((408, 425, 429), UNREACHABLE),
    **dict.fromkeys((500, 502, 503, 504, *range(520, 525)), UNREACHABLE),
}


class OutputClosed(Exception):
    """Whoever read the output has gone."""


class Output:
    """Standard output as bytes, each write on its way when the call returns."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        """Write all of it. Raises `OutputClosed`."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Somebody who shares the terminal or pipe has made it non-blocking.
                select.select([], [self._descriptor], [])
            except BrokenPipeError:
                raise OutputClosed from None

    def when_unread(self, reactor: Any, call: Callable[[], object]) -> None:
        """Call when the reader goes, even while there is nothing to write.

        Without this, ``tail | head -1`` would end with the next event only.
        """
        mode = os.fstat(self._descriptor).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return

        def watch() -> None:
            poll = select.poll()
            poll.register(self._descriptor, 0)
            poll.poll()
            reactor.callFromThread(call)

        threading.Thread(target=watch, name="output", daemon=True).start()


def run(main: Callable[[Any], Coroutine[Any, Any, None]], *, as_json: bool = False) -> None:
    """Run the reactor until ``main``, which gets it, is done; end the process where it fails.

    Ctrl-C ends the process as it would end ``cat``: nothing here needs tidying up.
    """
    from twisted.internet import reactor as installed

    from durable_streams_tw.clocks import make_monotonic

    reactor: Any = installed
    make_monotonic(reactor)
    outcome: list[Failure | None] = []

    def end(result: Failure | None) -> None:
        outcome.append(result)
        reactor.stop()

    def begin() -> None:
        working: Deferred[None] = ensureDeferred(main(reactor))
        working.addBoth(end)

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    failure = outcome[0]
    if isinstance(failure, Failure):
        _fail(failure, as_json)


def _fail(failure: Failure, as_json: bool) -> NoReturn:
    error = failure.value
    if isinstance(error, OutputClosed):
        # Python flushes standard output when it ends; what is left has no reader either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(OUTPUT_CLOSED)
    if isinstance(error, click.ClickException):
        raise error
    if not isinstance(error, ClientError):
        failure.raiseException()
    told(error, as_json)
    sys.exit(status_of(error))


def told(error: ClientError, as_json: bool) -> None:
    """Say on standard error what went wrong."""
    if not as_json:
        click.echo(f"{PROGRAM}: {error}", err=True)
        return
    said: dict[str, Any] = {"error": str(error)}
    if error.url is not None:
        said["url"] = error.url
    if isinstance(error, Rejected):
        said["status"] = error.status
        if error.closed:
            said["closed"] = True
            said["offset"] = error.header.get("stream-next-offset")
    click.echo(json.encode(said), err=True)


def status_of(error: ClientError) -> int:
    """The exit status of a failure."""
    if isinstance(error, Rejected):
        return _STATUSES.get(error.status, FAILED)
    kinds: tuple[tuple[type[ClientError], int], ...] = (
        (BadTarget, USAGE),
        (BadProducer, USAGE),
        (Fenced, CONFLICT),
        (OutcomeUnknown, UNKNOWN_OUTCOME),
        (Unreachable, UNREACHABLE),
        (Untrusted, UNREACHABLE),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), FAILED)
