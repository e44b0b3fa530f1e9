"""Server as a child process: ``twistd -n durable-streams``, on a free loopback port."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

START_SECONDS = 20.0
STOP_SECONDS = 20.0
# Last line of twistd's log after a clean stop.
FAREWELL = "The server has stopped"
# Words that the log must not contain.
COMPLAINTS = ("Traceback", "Unhandled")


class ServiceFault(Exception):
    """The server did not start, did not stop cleanly, or logged an error."""


@contextmanager
def running(options: Sequence[str], log: Path, port: int | None = None) -> Iterator[str]:
    """Run the server during the block, then stop it; yield ``http://host:port``.

    ``options`` are those of ``durable-streams`` without the address. The output is appended to the
    file ``log``. Without ``port``, a free one is used.

    Raise ``ServiceFault`` if the server does not answer within ``START_SECONDS``, exits by itself,
    is still running ``STOP_SECONDS`` after SIGTERM, or has logged an error.
    """
    port = port or free_port()
    twistd = Path(sys.executable).with_name("twistd")
    command = [str(twistd), "--pidfile=", "-n", "durable-streams"]
    command += ["--listen", f"tcp:{port}:interface=127.0.0.1", *options]
    start = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _await_port(process, port)
        yield f"http://127.0.0.1:{port}"
        if process.poll() is not None:
            raise ServiceFault(f"the service ended by itself, with code {process.returncode}")
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServiceFault(f"no end {STOP_SECONDS:.0f} s after SIGTERM") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    _read_log(log, start)


def _await_port(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceFault(f"the service ended at its start, with code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise ServiceFault(f"the service accepts no connections after {START_SECONDS:.0f} s")


def _read_log(log: Path, start: int) -> None:
    text = log.read_bytes()[start:].decode("utf-8", "replace")
    for complaint in COMPLAINTS:
        if complaint in text:
            raise ServiceFault(f"the log has a line with {complaint!r}")
    if FAREWELL not in text:
        raise ServiceFault(f"the log does not end with {FAREWELL!r}")
