"""Server processes that share a database, and HAProxy in front of them."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from tests.ports import await_port, free_port
from tests.proxies.proxies import program
from tests.service.black_box import PATIENCE, ROOT, command, environment

PROXY_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "postgresql" / "haproxy.cfg"
# Texts that the log of a node must not contain.
COMPLAINTS = ("Traceback", "Unhandled")


class Response:
    """Status, headers and body of a response."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


class Node:
    """Process of ``twistd -n durable-streams --database`` on a port of its own."""

    def __init__(self, directory: Path, name: str, url: str, *options: str) -> None:
        self.name = name
        self.port = free_port()
        self.logfile = directory / f"{name}.log"
        self._line = command(
            *("--pidfile=", "-n", "durable-streams"),
            *("--listen", f"tcp:{self.port}:interface=127.0.0.1"),
            *("--database", url, "--unsafe-database", "--node", name, *options),
        )
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> int:
        """Return the number of the process."""
        assert self._process is not None, "the node was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """Return the log."""
        return self.logfile.read_text("utf-8", "replace")

    def complaints(self) -> list[str]:
        """Return the lines of the log that show a bug."""
        lines = self.log.splitlines()
        return [line for line in lines if any(word in line for word in COMPLAINTS)]

    @property
    def address(self) -> str:
        """Return the address as ``http://host:port``."""
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start the process."""
        with self.logfile.open("ab") as log:
            self._process = subprocess.Popen(
                self._line,
                cwd=self._directory,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def await_ready(self) -> None:
        """Wait until the node is ready."""
        assert self._process is not None, "the node was not started"
        await_port(self.port, self._process, self.logfile.read_text)
        # The port is open before the store is.
        while ask(self.port, "GET", "/-/ready").status != 200:
            time.sleep(0.05)

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.launch()
        self.await_ready()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process is not None, "the node was not started"
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the process and return its exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "text/plain",
        **headers: str,
    ) -> Response:
        """Send a request for a stream and return the response."""
        return ask(self.port, method, ROOT + path, body, content_type, **headers)


def ask(
    port: int,
    method: str,
    target: str,
    body: bytes | None = None,
    content_type: str = "text/plain",
    **headers: str,
) -> Response:
    """Send a request to a port and return the response."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, body, {"Content-Type": content_type, **fields})
        return Response(connection.getresponse())
    finally:
        connection.close()


@contextmanager
def round_robin(directory: Path, ports: Sequence[int]) -> Iterator[int]:
    """Run the documented HAProxy in front of two nodes; yield its port.

    Each request goes to the node after that of the previous request.
    """
    found = program("haproxy")
    assert found is not None, "HAProxy is not installed: apt-get install haproxy"
    port = free_port()
    text = PROXY_PAGE.read_text()
    servers = zip(("streams1:4437", "streams2:4437"), ports, strict=True)
    for documented, ours in [
        ("bind :8080", f"bind 127.0.0.1:{port}"),
        *((address, f"127.0.0.1:{number}") for address, number in servers),
    ]:
        assert documented in text, f"{PROXY_PAGE.name} no longer has {documented!r}"
        text = text.replace(documented, ours)
    configuration = directory / "haproxy.cfg"
    configuration.write_text(text)
    log = directory / "haproxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [found, "-db", "-f", str(configuration)],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        await_port(port, process, log.read_text)
        yield port
    finally:
        process.kill()
        process.wait()
