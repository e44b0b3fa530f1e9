"""The client commands as a user has them: processes, pipes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.client_input import LineBatcher, PieceBatcher
from durable_streams_tw.cli.client_options import ClientOptions
from tests.service.black_box import PATIENCE, Foreground, ask, environment
from tests.service.pem import pem

_MAIN = [sys.executable, "-c", "from durable_streams_tw.cli.commands import main; main()"]


class ClientCase(SynchronousTestCase):
    """A folder, and commands that run in it."""

    port = 1

    def setUp(self) -> None:
        self.here = Path(self.mktemp())
        self.here.mkdir()

    def begin(self, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
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

    def call(self, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a command to its end: status, output, what it complains of."""
        process = self.begin(*arguments)
        out, err = process.communicate(stdin, timeout=PATIENCE)
        return process.returncode, out, err


class ClientTests(ClientCase):
    """Against a server in a process of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.server = Foreground(self.here, "durable-streams", "--interface=127.0.0.1", "--port=0")
        self.server.__enter__()
        self.addCleanup(self.server.stop)
        self.port = self.server.port

    def test_a_life(self) -> None:
        """Every command, its output and its exit status."""
        status, out, _ = self.call("create", "j", "-t", "application/json", "--json")
        self.assertEqual((status, json.loads(out)["created"]), (0, True))
        self.assertEqual(self.call("append", "j", "--lines", stdin=b'{"a": 1.0}\n\n[1]\n')[0], 0)
        status, out, err = self.call("append", "j", "--lines", stdin=b"2\nno\n")
        self.assertEqual((status, err), (1, b"Error: Line 2 is not valid JSON.\n"))
        self.assertEqual(self.call("read", "j"), (0, b'{"a": 1.0}\n[1]\n2\n', b""))
        told = json.loads(self.call("read", "j", "--json")[1])
        self.assertEqual(told["messages"], [{"a": 1.0}, [1], 2])
        self.assertEqual(json.loads(self.call("head", "j", "--json")[1])["offset"], told["offset"])
        self.assertEqual(self.call("fork", "j", "k", "--offset", told["offset"])[0], 0)
        self.assertEqual(self.call("close", "j")[0], 0)
        status, _, err = self.call("append", "j", "-d", "3", "--json")
        self.assertEqual((status, json.loads(err)["closed"]), (4, True))
        self.assertEqual(self.call("tail", "j", "--offset", told["offset"]), (0, b"", b""))
        self.assertEqual(self.call("delete", "k")[0], 0)
        self.assertEqual(self.call("head", "k")[0], 3)

    def test_tail_survives_the_server(self) -> None:
        """Killed and started again, with bytes of every kind: all of them, once."""
        self.server.stop()
        data = bytes(range(256)) * 40
        kept = ("--interface=127.0.0.1", f"--port={self.port}", f"--data-dir={self.here / 'd'}")
        with Foreground(self.here, "durable-streams", *kept) as server:
            ask(self.port, "PUT", "s", data[:5000], "application/x")
            process = self.begin("tail", "s", "--offset-file", "at")
            assert process.stdout is not None
            seen = process.stdout.read(5000)
            server.stop(signal.SIGKILL)
        with Foreground(self.here, "durable-streams", *kept):
            ask(self.port, "POST", "s", data[5000:], "application/x", Stream_Closed="true")
            rest, err = process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, 0, err)
            self.assertEqual(seen + rest, data)
            self.assertIn(b"trying again", err)
            self.assertEqual(self.call("tail", "s", "--offset-file", "at"), (0, b"", b""))

    def test_a_tail_that_is_left(self) -> None:
        """By Ctrl-C, and by its reader: at once, and without a word."""
        ask(self.port, "PUT", "s", b"first")
        for leave in ("interrupt", "close"):
            process = self.begin("tail", "s")
            assert process.stdout is not None and process.stderr is not None
            # An event that has come is on its way out: nothing follows it.
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

    def test_appended_while_it_comes(self) -> None:
        """Nobody has to wait for the end of the input."""
        ask(self.port, "PUT", "s", b"")
        process = self.begin("append", "s", "--lines", "--close")
        reader = self.begin("tail", "s")
        assert process.stdin is not None and reader.stdout is not None
        for line in (b"one\n", b"two\r\n"):
            process.stdin.write(line)
            process.stdin.flush()
            self.assertEqual(reader.stdout.readline(), line)
        process.communicate(b"end", timeout=PATIENCE)
        self.assertEqual(reader.communicate(timeout=PATIENCE)[0], b"end")
        self.assertEqual((process.returncode, reader.returncode), (0, 0))

    def test_secrets(self) -> None:
        """From the environment, from files; and never in what is printed."""
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
            process = self.begin("read", "x", "--retry-for", "0", *arguments, **nowhere, **more)
            out, err = process.communicate(timeout=PATIENCE)
            status = process.returncode
            self.assertIn(status, (2, 6))
            self.assertNotIn(canary.encode(), out + err)


class SecureTests(ClientCase):
    """TLS."""

    def test_trust(self) -> None:
        """A certificate counts where it is trusted, and only for its own name."""
        pem().write(self.here)
        listen = "ssl:0:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem"
        with Foreground(self.here, "durable-streams", "--listen", listen) as server:
            url = f"https://127.0.0.1:{server.port}/v1/stream/"
            trusted = ("--cacert", "cert.pem")
            self.assertEqual(self.call("create", url + "s", *trusted)[0], 0)
            self.assertEqual(self.call("append", url + "s", *trusted, stdin=b"x")[0], 0)
            self.assertEqual(self.call("read", url + "s", *trusted), (0, b"x", b""))
            status, _, err = self.call("read", url + "s")
            self.assertEqual(status, 6)
            self.assertIn(b"cannot be trusted", err)
            other = Foreground(
                self.here, "durable-streams", "--listen", listen.replace("0.0.1", "0.0.2")
            )
            with other:
                elsewhere = f"https://127.0.0.2:{other.port}/v1/stream/s"
                status, _, err = self.call("read", elsewhere, *trusted)
            self.assertEqual(status, 6)
            self.assertIn(b"it is for another name", err)


class AccessTests(SynchronousTestCase):
    """Who asks."""

    def test_a_token_that_is_renewed(self) -> None:
        """The next request has the new one; a token that was given stands before the file."""
        path = Path(self.mktemp())
        path.write_text("first\n")
        access = ClientOptions("http://h/", None, str(path), ("X-A: b",), None, None, False)
        self.assertEqual(access.request_headers(), {"X-A": "b", "Authorization": "Bearer first"})
        path.write_text("second")
        self.assertEqual(access.request_headers()["Authorization"], "Bearer second")
        given = ClientOptions("http://h/", "third", str(path), (), None, None, False)
        self.assertEqual(given.request_headers(), {"Authorization": "Bearer third"})


class CuttingTests(SynchronousTestCase):
    """Input becomes batches, and nothing of it is lost."""

    @given(st.lists(st.binary(max_size=9) | st.sampled_from([b"\n", b"a\r\n\n"])))
    def test_lines(self, pieces: list[bytes]) -> None:
        for cut in (LineBatcher(json_mode=False), PieceBatcher()):
            batches = [batch for piece in pieces for batch in cut.feed(piece)]
            if isinstance(cut, LineBatcher):
                self.assertTrue(all(batch.endswith(b"\n") for batch in batches))
            self.assertEqual(b"".join([*batches, *cut.end()]), b"".join(pieces))

    @given(st.lists(st.integers() | st.lists(st.integers())), st.integers(1, 9))
    def test_json(self, values: list[Any], size: int) -> None:
        text = "".join(json.dumps(value) + os.linesep for value in values).encode()
        cut = LineBatcher(json_mode=True)
        batches = [b for at in range(0, len(text), size) for b in cut.feed(text[at : at + size])]
        found = [value for batch in [*batches, *cut.end()] for value in json.loads(batch)]
        self.assertEqual(found, values)

    def test_a_line_that_is_no_json(self) -> None:
        """What stands before it is given out first."""
        batches = LineBatcher(json_mode=True).feed(b"1\n2\n{\n3\n")
        self.assertEqual(next(batches), b"[1,2]")
        with self.assertRaisesRegex(click.ClickException, "Line 3"):
            next(batches)
