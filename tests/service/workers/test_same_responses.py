"""Tests that a server with workers responds to every request like one process.

The requests are those of the table of malformed requests, on real connections.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from unittest import SkipTest

from tests.http.malformed.servers import MAX_BODY
from tests.http.malformed.table import ROWS
from tests.service.black_box import PATIENCE, ask
from tests.service.workers.server import WorkersTestCase

_CHANGES = re.compile(rb"(?<=\r\n)Date: [^\r]*\r\n|(?<=-Next-Offset: )[^\r]+")


def respond(port: int, data: bytes, size: int = 0, quiet: float = 0.0) -> bytes:
    """Send bytes, close the sending side, and return all that arrives.

    twisted.web drops requests in progress when the client closes its side. So wait before that: for
    ``size`` bytes, or until nothing has arrived for ``quiet`` seconds.
    """
    received = b""
    address = ("127.0.0.1", port)
    with contextlib.suppress(ConnectionError), socket.create_connection(address) as client:
        client.sendall(data)
        with contextlib.suppress(TimeoutError):
            client.settimeout(quiet or PATIENCE)
            while (quiet or len(received) < size) and (part := client.recv(1 << 16)):
                received += part
        client.settimeout(PATIENCE)
        client.shutdown(socket.SHUT_WR)
        while part := client.recv(1 << 16):
            received += part
    return received


class SameResponseTests(WorkersTestCase):
    def compare(self, *options: str, quiet: float = 0.0) -> None:
        limit = f"--max-body={MAX_BODY}"
        with self.serve(limit, *options, workers=1) as single:
            with self.serve(limit, *options, workers=3) as server:
                for port in (single.port, server.port):
                    self.assertEqual(ask(port, "PUT", "a")[0], 201)
                for row in ROWS:
                    expected = respond(single.port, row.data, quiet=quiet)
                    found = respond(server.port, row.data, len(expected))
                    self.assertEqual(
                        _CHANGES.sub(b"", found), _CHANGES.sub(b"", expected), row.name
                    )
                server.stop()
            single.stop()
        self.assert_clean(server.log)

    def test_http1_engine(self) -> None:
        self.compare()

    def test_twisted_web(self) -> None:
        if "WORKERS_TWISTED_WEB" not in os.environ:
            raise SkipTest("takes long: set WORKERS_TWISTED_WEB=1")
        self.compare("--no-fast-channel", quiet=0.5)
