"""Memory and latency of a server under attack by HTTP/2 clients.

    python -m bench.http2_attacks CERTIFICATE KEY

Starts a server for each attack, measures an append every 10 ms over a separate connection
before and during the attack, and prints the server's peak resident memory. It takes about a
minute; the results depend on the machine.
"""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

PORT = 18_771
RUN = "from durable_streams_tw.cli.commands import main; main()"
SECONDS = 6.0
ROOT = "/v1/stream/"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WHOLE, OPEN = 5, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    size = len(payload)
    return struct.pack(">BHBBL", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(name: int, value: int) -> bytes:
    """Return a SETTINGS frame with one value."""
    return frame(4, 0, 0, struct.pack(">HL", name, value))


def window(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(8, 0, stream, struct.pack(">L", increment))


def block(method: str, path: str, *fields: tuple[str, str]) -> bytes:
    """Return the field block of a request, without compression."""
    head = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
    parts: list[bytes] = []
    for name, value in [*head, *fields]:
        parts += (b"\0", bytes((len(name),)), name.encode(), bytes((len(value),)), value.encode())
    return b"".join(parts)


GET = block("GET", ROOT + "large")
POST = block("POST", ROOT + "a", ("content-type", "text/plain"))


def connect(protocol: str = "h2") -> ssl.SSLSocket:
    """Open a TLS connection."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", PORT), 10))


def ask(connection: ssl.SSLSocket, method: str, path: str, body: bytes = b"") -> None:
    """Send one HTTP/1.1 request."""
    connection.sendall(
        f"{method} {ROOT}{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            raise ConnectionError("the server has closed the connection")
        data += more


def drained(connection: ssl.SSLSocket) -> None:
    """Read and drop received bytes, so that the server can write."""

    def read() -> None:
        try:
            while connection.recv(65_536):
                pass
        except OSError:
            pass

    threading.Thread(target=read, daemon=True).start()


Attack = Callable[[float], None]


def silent(until: float) -> None:
    """Open ten connections with 100 requests each and closed windows."""
    held = []
    for _ in range(10):
        connection = connect()
        requests = b"".join([frame(1, WHOLE, 2 * n + 1, GET) for n in range(100)])
        connection.sendall(PREFACE + settings(4, 0) + requests)
        held.append(connection)
    while time.monotonic() < until:
        time.sleep(0.1)


def repeated(until: float, opening: bytes, make: Callable[[int], bytes], read: bool = True) -> None:
    """Send on four connections as fast as possible until they are closed.

    They do not reconnect: that would measure TLS handshakes, not the attack.
    """

    def run() -> None:
        try:
            connection = connect()
            connection.sendall(PREFACE + opening)
            if read:
                drained(connection)
            number = 1
            while time.monotonic() < until:
                connection.sendall(make(number))
                number += 200
        except OSError:
            pass

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rapid_reset(until: float) -> None:
    """Return requests that are reset immediately."""
    cancel = struct.pack(">L", 8)

    def make(first: int) -> bytes:
        numbers = range(first, first + 200, 2)
        return b"".join([frame(1, WHOLE, n, GET) + frame(3, 0, n, cancel) for n in numbers])

    repeated(until, settings(4, 65_535), make)


def empty_data(until: float) -> None:
    """Return empty DATA frames."""
    data = frame(0, 0, 1) * 1_000
    repeated(until, settings(4, 65_535) + frame(1, OPEN, 1, POST), lambda _: data)


def byte_by_byte(until: float) -> None:
    """Return WINDOW_UPDATE frames of one byte."""
    requests = b"".join([frame(1, WHOLE, 2 * n + 1, GET) for n in range(100)])
    opened = b"".join([window(2 * n + 1, 1) for n in range(100)]) * 10
    repeated(until, settings(4, 0) + requests, lambda _: opened)


def pings(until: float) -> None:
    """Return PING frames. Their responses are not read."""
    data = frame(6, 0, 0, bytes(8)) * 1_000
    repeated(until, settings(4, 0), lambda _: data, read=False)


def continuations(until: float) -> None:
    """Return a field block without an end."""
    data = frame(9, 0, 1, b"") * 1_000
    repeated(until, settings(4, 0) + frame(1, 0, 1, GET), lambda _: data)


def latencies(until: float) -> list[float]:
    """Return the latencies of appends over HTTP/1.1, in seconds, ascending."""
    connection = connect("http/1.1")
    found = []
    while time.monotonic() < until:
        began = time.monotonic()
        ask(connection, "POST", "a", b"x" * 100)
        found.append(time.monotonic() - began)
        time.sleep(0.01)
    connection.close()
    return sorted(found)


def measure(attack: Attack, server: subprocess.Popen[bytes]) -> str:
    """Measure one attack."""
    connection = connect("http/1.1")
    ask(connection, "PUT", "a")
    ask(connection, "PUT", "large")
    for _ in range(20):
        ask(connection, "POST", "large", b"x" * 500_000)
    before = latencies(time.monotonic() + SECONDS / 2)
    until = time.monotonic() + SECONDS
    # In a separate process, so that the measurement does not wait for it.
    attacker = multiprocessing.get_context("spawn").Process(target=attack, args=(until,))
    attacker.start()
    during = latencies(until)
    attacker.join()
    status = Path(f"/proc/{server.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    name = (attack.__doc__ or "").splitlines()[0]

    def show(times: list[float]) -> str:
        middle, slow, slowest = times[len(times) // 2], times[len(times) * 99 // 100], times[-1]
        return f"p50 {middle * 1e3:.1f} ms, p99 {slow * 1e3:.1f} ms, max {slowest * 1e3:.1f} ms"

    return f"{name}\n  alone:  {show(before)}\n  during: {show(during)}\n  peak memory {peak} MiB"


def main() -> None:
    """Run all attacks."""
    certificate, key = sys.argv[1:3]
    for attack in (silent, rapid_reset, empty_data, byte_by_byte, pings, continuations):
        with tempfile.TemporaryDirectory() as folder:
            listen = f"ssl:{PORT}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
            server = subprocess.Popen(
                [
                    *(sys.executable, "-c", RUN, "run"),
                    *("--data-dir", f"{folder}/streams", "--listen", listen),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                for _ in range(100):
                    try:
                        connect("http/1.1").close()
                        break
                    except OSError:
                        time.sleep(0.1)
                print(measure(attack, server), flush=True)
            finally:
                server.terminate()
                server.wait(20)


if __name__ == "__main__":
    main()
