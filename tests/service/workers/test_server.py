"""Tests of a server with worker processes: start, failures, reload and stop."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import ssl
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from unittest import SkipTest

from tests.ports import free_port
from tests.service.black_box import PATIENCE, ROOT, Daemon, Foreground, ask, environment, run
from tests.service.pem import cached_pem, endpoint
from tests.service.test_twistd import wait_for
from tests.service.workers.server import (
    Follower,
    WorkersTestCase,
    children_of,
    is_running,
    kill_running,
    wait_until,
    workers_in,
)

_CLI = "from durable_streams_tw.cli.commands import main; main()"

# Imported by all processes of the server. The signal starts an endless loop of C code.
_LOOP_ON_SIGNAL = """
import itertools, signal
signal.signal(signal.SIGUSR1, lambda *_: all(itertools.repeat(True)))
"""


def operator(port: int, name: str) -> tuple[int, str]:
    """Return status and body of an operator resource."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", f"/-/{name}")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def metric(port: int, line: str) -> float:
    """Return the value of a metric with its labels."""
    found = [row for row in operator(port, "metrics")[1].splitlines() if row.startswith(line + " ")]
    return float(found[0].rpartition(" ")[2]) if len(found) == 1 else -1.0


def repeat(call: object, *arguments: object, **fields: object) -> tuple[int, bytes]:
    """Send a request until the owner of the store is there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        status, body = call(*arguments, **fields)  # type: ignore[operator]
        if status != 503:
            return status, body
        assert time.monotonic() < deadline, body
        time.sleep(0.02)


class ServerTests(WorkersTestCase):
    """Two fronts and an owner with a durable store."""

    def test_one_server(self) -> None:
        """Workers are one server: for streams, live readers, metrics and readiness."""
        with self.serve("--data-dir", "data") as server:
            pids = workers_in(server.log)
            self.assertEqual(sorted(pids), ["front-1", "front-2", "owner", "template"])
            port = server.port
            self.assertEqual(ask(port, "PUT", "a", b"0;")[0], 201)
            follower = Follower(port, "a")
            follower.until(b"event: control")
            # Enough connections that each front gets some.
            for number in range(1, 31):
                self.assertEqual(ask(port, "POST", "a", b"%d;" % number)[0], 204)
                text = b"".join(b"%d;" % written for written in range(number + 1))
                self.assertEqual(ask(port, "GET", "a"), (200, text))
            follower.until(b"30;")
            self.assertEqual(operator(port, "ready")[0], 200)
            appends = 'durable_streams_commands_total{operation="append",result="done"}'
            wait_for(lambda: metric(port, appends) == 30)
            wait_for(lambda: metric(port, 'durable_streams_live_subscribers{kind="sse"}') == 1)
            for name in ("front-1", "front-2", "owner"):
                cpu = f'durable_streams_process_cpu_seconds_total{{worker="{name}"}}'
                self.assertGreaterEqual(metric(port, cpu), 0)
            self.check_processes(server.pid, pids)
            self.check_failures(server, follower)
            supervised = children_of(server.pid)
            self.assertEqual(len(supervised), 5)
            wait_until(lambda: not children_of(server.pid, ended=True))
            # The stop waits for the suspended owner, and a second SIGTERM changes nothing.
            os.kill(workers_in(server.log)["owner"], signal.SIGSTOP)
            server.signal(signal.SIGTERM)
            rest = follower.response.read()
            server.signal(signal.SIGTERM)
            os.kill(workers_in(server.log)["owner"], signal.SIGCONT)
            self.assertEqual(server.wait(), -signal.SIGTERM)
            self.assertIn(b"event: control", follower.received + rest)
        self.assert_nothing_left(supervised)
        self.assert_clean(server.log)
        self.assertIn("[front-1: ", server.log)
        with self.serve("--data-dir", "data", workers=1) as single:
            self.assertEqual(ask(single.port, "GET", "a")[1].count(b";"), 41)

    def check_processes(self, supervisor: int, pids: dict[str, int]) -> None:
        """No process of the server shows settings or blocks signals; all are children of the
        supervisor.
        """
        for pid in pids.values():
            self.assertIn(pid, children_of(supervisor))
            with open(f"/proc/{pid}/status") as file:
                self.assertIn("SigBlk:\t0000000000000000\n", file.read())
            for name in ("cmdline", "environ"):
                with open(f"/proc/{pid}/{name}") as file:
                    self.assertNotIn("data-dir", file.read())

    def check_failures(self, server: Foreground, follower: Follower) -> None:
        """Processes that are killed are replaced; streams and live readers continue."""
        port = server.port
        self.kill(server, "owner")
        self.assertEqual(repeat(ask, port, "POST", "a", b"31;")[0], 204)
        follower.until(b"31;")
        # Its successor forks the next fronts.
        self.kill(server, "template")
        for name in ("front-1", "front-2"):
            other = workers_in(server.log)["front-2" if name == "front-1" else "front-1"]
            self.kill(server, name)
            self.assertTrue(is_running(other))
        for number in range(32, 41):
            self.assertEqual(repeat(ask, port, "POST", "a", b"%d;" % number)[0], 204)
        appends = 'durable_streams_commands_total{operation="append",result="done"}'
        # The last second of the first owner may be missing.
        wait_for(lambda: metric(port, appends) >= 10)
        # It was connected to one of the fronts.
        follower.reconnect()
        follower.until(b"event: control")

    def test_supervisor_killed(self) -> None:
        """All processes end, also suspended ones and an owner in an endless loop of C code; port
        and data directory are free again.
        """
        (self.directory / "sitecustomize.py").write_text(_LOOP_ON_SIGNAL)
        path = os.pathsep.join((str(self.directory), environment()["PYTHONPATH"]))
        port = free_port()
        where = ("--data-dir", "data", "--listen", f"tcp:{port}:interface=127.0.0.1")
        with self.serve(*where, variables={"PYTHONPATH": path}) as first:
            self.assertEqual(ask(port, "PUT", "a", b"x")[0], 201)
            supervised = children_of(first.pid)
            owner = workers_in(first.log)["owner"]
            self.addCleanup(kill_running, owner)
            for pid in supervised:
                os.kill(pid, signal.SIGUSR1 if pid == owner else signal.SIGSTOP)
            self.assertEqual(first.stop(signal.SIGKILL), -signal.SIGKILL)
        with self.serve(*where) as second:
            self.assertEqual(ask(port, "GET", "a"), (200, b"x"))
            supervised += children_of(second.pid)
            second.stop()
        self.assert_nothing_left(supervised)
        self.assert_clean(second.log)

    def test_stopped_while_it_starts(self) -> None:
        """A SIGTERM before the workers serve leaves neither processes nor temporary files."""
        starting = self.serve()
        wait_until(lambda: list(self.temporary.iterdir()))
        supervised = children_of(starting.pid)
        self.assertEqual(starting.stop(), -signal.SIGTERM)
        self.assertNotIn("front-1", starting.log)
        self.assert_nothing_left(supervised)

    def test_killed_while_it_stops(self) -> None:
        """A SIGKILL while a worker does not stop leaves neither processes nor temporary files."""
        with self.serve() as server:
            supervised = children_of(server.pid)
            os.kill(workers_in(server.log)["front-1"], signal.SIGSTOP)
            os.kill(server.pid, signal.SIGTERM)
            server.until("The server is stopping")
            self.assertEqual(server.stop(signal.SIGKILL), -signal.SIGKILL)
        self.assert_nothing_left(supervised)

    def test_cannot_start(self) -> None:
        """Errors of the environment are one line on stderr and exit status 1."""
        with self.serve("--data-dir", "data", workers=1) as other:
            port = ("--listen", f"tcp:{other.port}:interface=127.0.0.1")
            for arguments, words in (
                (("--data-dir=data", "--port=0"), "data is in use"),
                (port, f"cannot listen on port {other.port} of 127.0.0.1"),
                (("--auth=file:missing.toml", "--port=0"), "missing.toml"),
            ):
                done = run(self.directory, "-n", "durable-streams", "--workers=2", *arguments)
                self.assertEqual(done.returncode, 1, done)
                self.assertIn(words, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_interrupted(self) -> None:
        """Ctrl-C reaches all processes of a terminal; the server stops in order."""
        line = [sys.executable, "-c", _CLI, "run", "--workers=2", "--port=0"]
        process = subprocess.Popen(
            line,
            cwd=self.directory,
            env={**environment(), "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        log = b""
        while b"Durable streams are at" not in log:
            line_read = process.stdout.readline()
            assert line_read, log
            log += line_read
        supervised = children_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0, log + rest)
        self.assertNotIn(b"Traceback", log + rest)
        self.assertNotIn(b"killed", log + rest)
        self.assert_nothing_left(supervised)


class ConsoleTests(WorkersTestCase):
    """Resources of the console, from any front."""

    def test_console(self) -> None:
        """Each front lists all streams, and the last error of a webhook that the owner called."""
        url = f"http://127.0.0.1:{free_port()}/"
        hook = {"type": "webhook", "pattern": "a/*", "webhook": {"url": url}}
        with self.serve("--console") as server:
            port = server.port
            made = ask(
                port,
                "PUT",
                "__ds/subscriptions/s",
                json.dumps(hook).encode(),
                content_type="application/json",
            )
            self.assertEqual(made[0], 201, made)
            self.assertEqual(ask(port, "PUT", "a/1", b"x")[0], 201)

            def errors() -> set[str | None]:
                # Enough connections that each front gets some.
                pages = [json.loads(operator(port, "subscriptions")[1]) for _ in range(12)]
                return {page["subscriptions"][0]["last_error"] for page in pages}

            wait_until(lambda: None not in errors())
            for _ in range(12):
                listed = json.loads(operator(port, "streams")[1])["streams"]
                self.assertEqual([stream["path"] for stream in listed], ["a/1"])


class LogTests(WorkersTestCase):
    def test_json_log(self) -> None:
        """The log file of a daemon has the lines of all workers, also after it was rotated."""
        daemon = Daemon(
            self.directory,
            *("durable-streams", "--workers=2", "--log-format=json"),
            *("--data-dir=data", "--listen=tcp:0:interface=127.0.0.1"),
        )
        self.addCleanup(daemon.stop)
        self.assertEqual(daemon.started.returncode, 0, daemon.started)
        self.assertEqual(ask(daemon.port, "PUT", "a", b"x")[0], 201)
        log = self.directory / "twistd.log"
        pids = workers_in(log.read_text())
        log.rename(log.with_suffix(".1"))
        os.kill(int((self.directory / "twistd.pid").read_text()), signal.SIGHUP)
        wait_for(log.exists)
        os.kill(pids["owner"], signal.SIGKILL)
        wait_for(lambda: "owner serves" in log.read_text())
        daemon.stop()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        self.assertIn("SIGHUP", lines[0]["message"])
        lost = [line for line in lines if "has closed the connection" in line["message"]]
        self.assertEqual(sorted(line["worker"] for line in lost), ["front-1", "front-2"])
        self.assertTrue(lost[0]["source"].startswith("durable_streams_tw.storage."))


class EndpointTests(WorkersTestCase):
    """Endpoints other than TCP."""

    def test_endpoints(self) -> None:
        """Workers serve TLS with a certificate that SIGHUP reloads, UNIX sockets, and sockets
        of systemd.
        """
        cached_pem("first").write(self.directory)
        with (
            socket.create_server(("127.0.0.1", 0)) as inherited,
            self.serve(
                *(
                    "--listen",
                    endpoint(self.directory),
                    "--listen",
                    f"unix:{self.temporary}/streams.sock",
                ),
                *("--listen", "systemd:domain=INET:name=streams"),
                ports=2,
                inherited=inherited,
            ) as server,
        ):
            secure = server.ports[0]
            self.assertEqual(self.put_secure(secure, "first"), 201)
            for name in ("front-1", "front-2"):
                self.kill(server, name)
            self.assertEqual(ask(inherited.getsockname()[1], "GET", "a"), (200, b"x"))
            self.assertEqual(self.get_unix("streams.sock"), b"x")
            cached_pem("second").write(self.directory)
            server.signal(signal.SIGHUP)
            for _ in range(2):
                server.until("Reloaded the certificate")
            self.assertEqual(self.put_secure(secure, "second"), 200)
            server.stop()
        self.assert_clean(server.log)
        self.assertEqual(list(self.temporary.iterdir()), [])

    def put_secure(self, port: int, name: str) -> int:
        context = ssl.create_default_context(cadata=cached_pem(name).certificate.decode())
        connection = HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)
        try:
            connection.request("PUT", f"{ROOT}a", b"x", {"Content-Type": "text/plain"})
            return connection.getresponse().status
        finally:
            connection.close()

    def get_unix(self, path: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(self.temporary / path))
            client.sendall(f"GET {ROOT}a HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            response = HTTPResponse(client)
            response.begin()
            return response.read()

    def test_dropped_privileges(self) -> None:
        """With ``--uid`` workers run as that user."""
        if os.getuid() != 0:
            raise SkipTest("only root can become another user")
        user = pwd.getpwnam("nobody")
        os.chown(self.temporary, user.pw_uid, user.pw_gid)
        python = Path(sys.executable).resolve()
        if not all(path.stat().st_mode & 0o001 for path in (python, *python.parents)):
            raise SkipTest("other users cannot run this Python")
        arguments = [f"--uid={user.pw_uid}", f"--gid={user.pw_gid}", "durable-streams"]
        arguments += ["--workers=2", "--data-dir=data", "--listen=tcp:0:interface=127.0.0.1"]
        variables = {"TMPDIR": str(self.temporary)}
        with Foreground(self.temporary, *arguments, variables=variables) as server:
            self.assertEqual(ask(server.port, "PUT", "a", b"x")[0], 201)
            owners = {os.stat(f"/proc/{pid}").st_uid for pid in workers_in(server.log).values()}
            self.assertEqual(owners, {user.pw_uid})


class LimitTests(WorkersTestCase):
    """Limits hold for all fronts together."""

    def test_connections_of_an_address(self) -> None:
        with self.serve("--max-connections-per-address=4") as server:
            clients = []
            for _ in range(4):
                client = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
                self.addCleanup(client.close)
                clients.append(client)
            # Rejected once the fronts have told each other.
            wait_until(lambda: self.is_rejected(server.port))
            for client in clients[:2]:
                client.close()
            wait_until(lambda: not self.is_rejected(server.port))

    def is_rejected(self, port: int) -> bool:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(f"GET {ROOT}a HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            return client.recv(100).startswith(b"HTTP/1.1 429")

    def test_rate(self) -> None:
        """A client that opens a connection for each request has the same rate."""
        with self.serve("--max-rate=40/h") as server:
            statuses = [ask(server.port, "GET", "a")[0] for _ in range(40)]
            wait_until(lambda: ask(server.port, "GET", "a")[0] == 429)
            time.sleep(0.3)
            more = [ask(server.port, "GET", "a")[0] for _ in range(20)]
        self.assertIn(404, statuses)
        self.assertEqual(set(more), {429})
