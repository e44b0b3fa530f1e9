"""Tests of the client commands as processes, with pipes and signals."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli import client_input
from durable_streams_tw.cli.client_input import lines_of, pieces_of
from durable_streams_tw.cli.client_options import ClientOptions
from tests.ports import free_port
from tests.service.black_box import PATIENCE, Foreground, ask, environment, new_directory
from tests.service.pem import cached_pem

_MAIN = [sys.executable, "-c", "from durable_streams_tw.cli.commands import main; main()"]


class ClientCase(SynchronousTestCase):
    """Test case with a directory, in which commands run."""

    port = 1

    def setUp(self) -> None:
        self.here = new_directory(self)

    def start_command(self, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start a command."""
        variables = {"DURABLE_STREAMS_URL": f"http://127.0.0.1:{self.port}/v1/stream/"}
        return subprocess.Popen(
            [*_MAIN, *arguments],
            cwd=self.here,
            env={**environment(), **variables, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run_command(self, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a command; return its exit status, standard output and standard error."""
        process = self.start_command(*arguments)
        out, err = process.communicate(stdin, timeout=PATIENCE)
        return process.returncode, out, err


class ClientTests(ClientCase):
    """Client commands against a server process."""

    def setUp(self) -> None:
        super().setUp()
        arguments = ("durable-streams", "--interface=127.0.0.1", "--port=0", "--listing")
        self.server = Foreground(self.here, *arguments)
        self.server.__enter__()
        self.addCleanup(self.server.stop)
        self.port = self.server.port

    def test_all_commands(self) -> None:
        """Every command writes its output and exits with its status."""
        status, out, _ = self.run_command("create", "j", "-t", "application/json", "--json")
        self.assertEqual((status, json.loads(out)["created"]), (0, True))
        self.assertEqual(
            self.run_command("append", "j", "--lines", stdin=b'{"a": 1.0}\n\n[1]\n')[0], 0
        )
        status, out, err = self.run_command("append", "j", "--lines", stdin=b"2\nno\n")
        self.assertEqual((status, err), (1, b"Error: Line 2 is not valid JSON.\n"))
        self.assertEqual(self.run_command("read", "j"), (0, b'{"a": 1.0}\n[1]\n2\n', b""))
        told = json.loads(self.run_command("read", "j", "--json")[1])
        self.assertEqual(told["messages"], [{"a": 1.0}, [1], 2])
        self.assertEqual(
            json.loads(self.run_command("head", "j", "--json")[1])["offset"], told["offset"]
        )
        self.assertEqual(self.run_command("fork", "j", "k", "--offset", told["offset"])[0], 0)
        self.assertEqual(self.run_command("close", "j")[0], 0)
        status, _, err = self.run_command("append", "j", "-d", "3", "--json")
        self.assertEqual((status, json.loads(err)["closed"]), (4, True))
        self.assertEqual(self.run_command("tail", "j", "--offset", told["offset"]), (0, b"", b""))
        self.assertEqual(self.run_command("delete", "k")[0], 0)
        self.assertEqual(self.run_command("head", "k")[0], 3)

    def test_append_input(self) -> None:
        """`append` takes TEXT, lines of JSON, and creates a stream with --create."""
        self.run_command("create", "j", "-t", "application/json")
        self.assertEqual(self.run_command("append", "j", stdin=b'{"a":1}\n[2]\n')[0], 0)
        self.assertEqual(self.run_command("append", "j", '"text"')[0], 0)
        self.assertEqual(self.run_command("read", "j")[1], b'{"a":1}\n[2]\n"text"\n')
        arguments = ("append", "new", "--create", "-t", "text/plain")
        for text in ("one\n", "two\n"):
            self.assertEqual(self.run_command(*arguments, text)[0], 0)
        self.assertEqual(self.run_command("read", "new")[1], b"one\ntwo\n")
        status, _, err = self.run_command("append", "missing", "x")
        self.assertEqual(status, 3, err)
        self.assertIn(b"the stream does not exist: create it first, or use --create", err)

    def test_several_streams(self) -> None:
        """`read` and `tail` take several names and patterns, and count messages and lines."""
        self.run_command("create", "jobs/j", "-t", "application/json", "-d", '[1,{"a":[2,","]},3]')
        self.run_command(
            "create", "jobs/t", "-t", "text/plain", "-d", "one\ntwo\nthree\n", "--closed"
        )
        titled = b'==> jobs/j <==\n1\n{"a":[2,","]}\n\n==> jobs/t <==\none\ntwo\n'
        self.assertEqual(self.run_command("read", "jobs/*", "-n", "2"), (0, titled, b""))
        out = self.run_command("read", "jobs/t", "jobs/j", "--json")[1]
        names = [json.loads(line)["stream"] for line in out.splitlines()]
        self.assertEqual(names, ["jobs/t", "jobs/j"])
        self.assertEqual(self.run_command("tail", "jobs/t", "-n", "2")[1], b"two\nthree\n")
        self.run_command("close", "jobs/j")
        out = self.run_command("tail", "jobs/j", "jobs/t", "-n", "1")[1]
        self.assertIn(b"==> jobs/j <==\n3\n", out)
        self.assertIn(b"==> jobs/t <==\nthree\n", out)
        status, _, err = self.run_command("read", "none/*")
        self.assertEqual((status, err), (1, b"Error: No stream matches none/*.\n"))

    def test_listing(self) -> None:
        """`ls` lists names, details, a tree and JSON; `sub` manages subscriptions."""
        for name in ("a/b/x", "a/b/y", "c"):
            self.run_command("create", name, "-t", "text/plain", "-d", "12345")
        self.assertEqual(self.run_command("ls")[1], b"a/b/x\na/b/y\nc\n")
        self.assertEqual(self.run_command("ls", "a/*y")[1], b"a/b/y\n")
        tree = b"a/\n  b/\n    x\n    y\nc\n"
        self.assertEqual(self.run_command("ls", "--tree")[1], tree)
        (line,) = self.run_command("ls", "c", "--long")[1].splitlines()
        self.assertEqual(line.split()[:3], [b"5", b"B", b"open"])
        self.assertEqual(json.loads(self.run_command("ls", "c", "--json")[1])["size"], 5)
        create = ("sub", "create", "s", "--pattern", "a/*", "--wake-stream", "wakes")
        self.assertEqual(self.run_command(*create)[1], b"Created: s\n")
        self.assertEqual(self.run_command(*create)[1], b"Already exists: s\n")
        self.assertEqual(json.loads(self.run_command("sub", "show", "s")[1])["pattern"], "a/*")
        self.assertTrue(self.run_command("sub", "ls")[1].startswith(b"s "))
        self.assertEqual(self.run_command("sub", "delete", "s")[0], 0)
        self.assertEqual(self.run_command("sub", "show", "s")[0], 3)
        self.assertEqual(self.run_command("sub", "create", "s", "--pattern", "a")[0], 2)

    def test_watch(self) -> None:
        """`watch` prints the changes of streams until it is interrupted."""
        ask(self.port, "PUT", "old", b"")
        process = self.start_command("watch", "--interval", "0.2", "--json")
        assert process.stdout is not None
        seen: list[tuple[str, str]] = []
        number = 0
        while not any(change == "created" for change, _ in seen):
            # The first list may be read after any of these.
            ask(self.port, "PUT", f"new{number}", b"x")
            number += 1
            if select.select([process.stdout], [], [], 0.5)[0]:
                event = json.loads(process.stdout.readline())
                seen.append((event["change"], event["path"]))
        ask(self.port, "DELETE", "old")
        while seen[-1] != ("deleted", "old"):
            event = json.loads(process.stdout.readline())
            seen.append((event["change"], event["path"]))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, -signal.SIGINT)

    def test_bench(self) -> None:
        """`bench` reports figures and leaves no stream."""
        arguments = ("bench", "--time", "500ms", "--writers", "2", "--json")
        status, out, err = self.run_command(*arguments)
        self.assertEqual(status, 0, err)
        result = json.loads(out)
        self.assertGreater(result["appends"], 0)
        self.assertLessEqual(result["appendMs"]["p50"], result["appendMs"]["max"])
        self.assertGreater(result["deliveryMs"]["max"], 0)
        self.assertEqual(self.run_command("ls")[1], b"")

    def test_upstream_variables(self) -> None:
        """STREAM_URL and STREAM_AUTH are used where the server's own variables are not set."""
        variables = {
            "DURABLE_STREAMS_URL": "",
            "STREAM_URL": f"127.0.0.1:{self.port}",
            "STREAM_AUTH": "Bearer x",
        }
        process = self.start_command("create", "v", "--json", **variables)
        out, err = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual(json.loads(out)["url"], f"http://127.0.0.1:{self.port}/v1/stream/v")

    def test_tail_across_a_restart(self) -> None:
        """`tail` continues after the server is killed and restarted, without loss or duplicates."""
        self.server.stop()
        data = bytes(range(256)) * 40
        kept = ("--interface=127.0.0.1", f"--port={self.port}", f"--data-dir={self.here / 'd'}")
        with Foreground(self.here, "durable-streams", *kept) as server:
            ask(self.port, "PUT", "s", data[:5000], "application/x")
            process = self.start_command("tail", "s", "--offset-file", "at")
            assert process.stdout is not None
            seen = process.stdout.read(5000)
            server.stop(signal.SIGKILL)
        with Foreground(self.here, "durable-streams", *kept):
            ask(self.port, "POST", "s", data[5000:], "application/x", Stream_Closed="true")
            rest, err = process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, 0, err)
            self.assertEqual(seen + rest, data)
            self.assertIn(b"trying again", err)
            self.assertEqual(self.run_command("tail", "s", "--offset-file", "at"), (0, b"", b""))

    def test_tail_interrupted(self) -> None:
        """`tail` ends at once, and without a message, on Ctrl-C and when its reader closes the
        pipe.
        """
        ask(self.port, "PUT", "s", b"first")
        for leave in ("interrupt", "close"):
            process = self.start_command("tail", "s")
            assert process.stdout is not None and process.stderr is not None
            # The event is complete on arrival: no byte follows it.
            self.assertEqual(process.stdout.read(5), b"first")
            if leave == "interrupt":
                process.send_signal(signal.SIGINT)
            else:
                process.stdout.close()
            status = process.wait(PATIENCE)
            self.assertEqual((leave, status), (leave, -2 if leave == "interrupt" else 141))
            self.assertEqual(process.stderr.read(), b"")
            for pipe in (process.stdin, process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()

    def test_append_streams_its_input(self) -> None:
        """`append` sends each line when it arrives, before the end of the input."""
        ask(self.port, "PUT", "s", b"")
        process = self.start_command("append", "s", "--lines", "--close")
        reader = self.start_command("tail", "s")
        assert process.stdin is not None and reader.stdout is not None
        for line in (b"one\n", b"two\r\n"):
            process.stdin.write(line)
            process.stdin.flush()
            self.assertEqual(reader.stdout.readline(), line)
        process.communicate(b"end", timeout=PATIENCE)
        self.assertEqual(reader.communicate(timeout=PATIENCE)[0], b"end")
        self.assertEqual((process.returncode, reader.returncode), (0, 0))

    def test_append_to_a_closed_stream(self) -> None:
        """The error of the first refused line ends the command, without further input."""
        # A single batch, and several of them.
        self.append_late("a", b"late\n")
        self.append_late("b", b"late\n" * 30_000)

    def append_late(self, stream: str, late: bytes) -> None:
        """Append lines, the last of them to a closed stream."""
        ask(self.port, "PUT", stream, b"")
        process = self.start_command("append", stream, "--lines")
        reader = self.start_command("tail", stream)
        assert process.stdin is not None and process.stderr is not None
        assert reader.stdout is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        self.assertEqual(reader.stdout.readline(), b"one\n")
        ask(self.port, "POST", stream, b"", Stream_Closed="true")
        self.assertEqual(reader.communicate(timeout=PATIENCE)[0], b"")
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(late)
            process.stdin.flush()
        status = process.wait(PATIENCE)
        # One line: batches in flight, which the end of the command cuts, are not reported.
        (error,) = process.stderr.read().splitlines()
        self.assertEqual((status, b"409" in error), (4, True))
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def test_secrets(self) -> None:
        """Tokens from the environment and from files are not printed."""
        canary = "canary-8c1f"
        (self.here / "token").write_text(canary + "\n")
        (self.here / "fields").write_text(f"X-Key: {canary}\n")
        nowhere = {"DURABLE_STREAMS_URL": f"http://u:{canary}@127.0.0.1:1/"}
        for arguments, more in (
            (("--token-file", "token"), {}),
            (("-H", "@fields"), {}),
            (("-H", canary), {}),
            ((), {"DURABLE_STREAMS_TOKEN": canary}),
        ):
            process = self.start_command(
                "read", "x", "--retry-for", "0", *arguments, **nowhere, **more
            )
            out, err = process.communicate(timeout=PATIENCE)
            status = process.returncode
            self.assertIn(status, (2, 6))
            self.assertNotIn(canary.encode(), out + err)


class AbsentServerTests(ClientCase):
    """Client commands while no server listens."""

    def test_fails_at_once(self) -> None:
        """Without --wait, a command fails without a retry and names the address."""
        self.port = free_port()
        for arguments in (("head", "x"), ("tail", "x"), ("append", "x", "y"), ("ls",)):
            status, _, err = self.run_command(*arguments)
            self.assertEqual(status, 6)
            self.assertIn(f"http://127.0.0.1:{self.port}/".encode(), err)
            self.assertNotIn(b"trying again", err)

    def test_wait(self) -> None:
        """With --wait, a command waits for a server that starts later."""
        self.port = free_port()
        process = self.start_command("create", "x", "--wait")
        arguments = ("durable-streams", "--interface=127.0.0.1", f"--port={self.port}")
        with Foreground(self.here, *arguments):
            out, err = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0, err)
        self.assertIn(b"Created", out)


class SecureTests(ClientCase):
    """Client commands over TLS."""

    def test_trust(self) -> None:
        """A certificate is accepted only from a trusted CA, and for its own name."""
        cached_pem().write(self.here)
        listen = "ssl:0:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem"
        with Foreground(self.here, "durable-streams", "--listen", listen) as server:
            url = f"https://127.0.0.1:{server.port}/v1/stream/"
            trusted = ("--cacert", "cert.pem")
            self.assertEqual(self.run_command("create", url + "s", *trusted)[0], 0)
            self.assertEqual(self.run_command("append", url + "s", *trusted, stdin=b"x")[0], 0)
            self.assertEqual(self.run_command("read", url + "s", *trusted), (0, b"x", b""))
            status, _, err = self.run_command("read", url + "s")
            self.assertEqual(status, 6)
            self.assertIn(b"cannot be trusted", err)
            other = Foreground(
                self.here, "durable-streams", "--listen", listen.replace("0.0.1", "0.0.2")
            )
            with other:
                elsewhere = f"https://127.0.0.2:{other.port}/v1/stream/s"
                status, _, err = self.run_command("read", elsewhere, *trusted)
            self.assertEqual(status, 6)
            self.assertIn(b"it is for another name", err)
        with Foreground(
            self.here, "durable-streams", "--listen", "tcp:0:interface=127.0.0.1"
        ) as plain:
            status, _, err = self.run_command("read", f"https://127.0.0.1:{plain.port}/v1/stream/s")
            self.assertEqual(status, 6)
            self.assertIn(b"does not use TLS at this port: use an http:// URL", err)


class ClientOptionsTests(SynchronousTestCase):
    """Tokens of requests."""

    def test_renewed_token(self) -> None:
        """A changed token file is read again; an explicit token overrides the file."""
        path = Path(self.mktemp())
        path.write_text("first\n")
        access = ClientOptions("http://h/", None, str(path), ("X-A: b",), None, None, False)
        self.assertEqual(access.request_headers(), {"X-A": "b", "Authorization": "Bearer first"})
        path.write_text("second")
        self.assertEqual(access.request_headers()["Authorization"], "Bearer second")
        given = ClientOptions("http://h/", "third", str(path), (), None, None, False)
        self.assertEqual(given.request_headers(), {"Authorization": "Bearer third"})


class BatcherTests(SynchronousTestCase):
    """Input is split into batches without loss."""

    @given(st.lists(st.binary(max_size=9) | st.sampled_from([b"\n", b"a\r\n\n"])))
    def test_lines(self, pieces: list[bytes]) -> None:
        """Lines and pieces are the input, however it arrives; each line but the last ends."""
        whole = b"".join(pieces)
        lines = self.all_of(lines_of, pieces)
        self.assertEqual(lines, whole.splitlines(keepends=True) if b"\r" not in whole else lines)
        self.assertEqual(b"".join(lines), whole)
        self.assertTrue(all(line.endswith(b"\n") for line in lines[:-1]))
        self.assertEqual(b"".join(self.all_of(pieces_of, pieces)), whole)

    def test_long_input(self) -> None:
        """Input is cut into pieces of at most MAX_PIECE; lines above MAX_LINE are refused."""
        with patch.object(client_input, "MAX_PIECE", 4), patch.object(client_input, "MAX_LINE", 4):
            self.assertEqual(self.all_of(pieces_of, [b"123456"]), [b"1234", b"56"])
            with self.assertRaisesRegex(click.ClickException, "Line 2 is longer"):
                self.all_of(lines_of, [b"1\n234", b"56"])

    def all_of(self, split: Any, pieces: list[bytes]) -> list[bytes]:
        left = [*filter(None, pieces)]

        class Source:
            async def take(self) -> bytes | None:
                return left.pop(0) if left else None

        async def work() -> list[bytes]:
            return [part async for part in split(Source())]

        found: list[Any] = []
        Deferred.fromCoroutine(work()).addBoth(found.append)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        parts: list[bytes] = found[0]
        return parts
