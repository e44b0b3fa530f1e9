"""Execution of a client command: reactor, signals, output and exit status."""

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

from durable_streams_tw.cli import exit_status
from durable_streams_tw.client import errors

_STATUSES: Final = {
    401: exit_status.NOT_ALLOWED,
    403: exit_status.NOT_ALLOWED,
    404: exit_status.NOT_FOUND,
    409: exit_status.CONFLICT,
    410: exit_status.NOT_FOUND,
    **dict.fromkeys((408, 425, 429), exit_status.UNREACHABLE),
    **dict.fromkeys((500, 502, 503, 504, *range(520, 525)), exit_status.UNREACHABLE),
}


_STDOUT: Final = 1


class OutputClosed(Exception):
    """The reader of standard output has closed it."""


class Output:
    """Unbuffered standard output."""

    def write(self, data: bytes) -> None:
        """Write all bytes. Raises `OutputClosed`."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(_STDOUT, rest) :]
            except BlockingIOError:
                # Another process with the same terminal or pipe has made it non-blocking.
                select.select([], [_STDOUT], [])
            except BrokenPipeError:
                raise OutputClosed from None

    def notify_when_closed(self, reactor: Any, call: Callable[[], object]) -> None:
        """Call a function on the reactor when the reader closes a pipe.

        Without this, ``tail | head -1`` would not exit before the next event.
        """
        mode = os.fstat(_STDOUT).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return

        def watch() -> None:
            poll = select.poll()
            poll.register(_STDOUT, 0)
            poll.poll()
            reactor.callFromThread(call)

        threading.Thread(target=watch, name="output", daemon=True).start()


def run(main: Callable[[Any], Coroutine[Any, Any, None]], *, as_json: bool = False) -> None:
    """Run the reactor until ``main(reactor)`` returns; exit with an error status if it fails.

    SIGINT kills the process without cleanup.
    """
    from durable_streams_tw.client.event_loops import installed_reactor
    from durable_streams_tw.clocks import make_monotonic

    reactor = installed_reactor()
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
    if isinstance(error, OutputClosed | BrokenPipeError):
        exit_status.exit_output_closed()
    if isinstance(error, click.ClickException):
        raise error
    if not isinstance(error, errors.ClientError):
        failure.raiseException()
    report_error(error, as_json)
    sys.exit(status_of(error))


def report_error(error: errors.ClientError, as_json: bool) -> None:
    """Print an error on standard error."""
    if not as_json:
        sentence = str(error)
        if error.url is None:
            sentence = sentence[:1].upper() + sentence[1:]
        click.echo(f"Error: {sentence}", err=True)
        return
    details: dict[str, Any] = {"error": str(error)}
    if error.url is not None:
        details["url"] = error.url
    if isinstance(error, errors.Rejected):
        details["status"] = error.status
        if error.problem:
            details["type"] = error.problem
    if isinstance(error, errors.StreamClosed):
        details["closed"] = True
        details["offset"] = error.offset
    click.echo(json.encode(details), err=True)


def status_of(error: errors.ClientError) -> int:
    """Return the exit status for an error."""
    if isinstance(error, errors.Rejected):
        return _STATUSES.get(error.status, exit_status.FAILED)
    kinds: tuple[tuple[type[errors.ClientError], int], ...] = (
        (errors.InvalidArgument, exit_status.USAGE),
        (errors.Fenced, exit_status.CONFLICT),
        (errors.OutcomeUnknown, exit_status.UNKNOWN_OUTCOME),
        (errors.Unreachable, exit_status.UNREACHABLE),
        (errors.Untrusted, exit_status.UNREACHABLE),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), exit_status.FAILED)
