"""Tests of the programs of examples/; tests.postgres.test_page has that of job_queue."""

from __future__ import annotations

import json
import sys
from urllib.request import Request, urlopen

from twisted.trial.unittest import SynchronousTestCase

from tests.examples.blocks import one
from tests.examples.programs import EXAMPLES, RunningProgram, run_program
from tests.service.black_box import PATIENCE, Foreground, ask, new_directory

QUESTION = "Why streams?"
ANSWER = f"You asked: {QUESTION} A stream keeps each of my words, so you may reload this page. "


class ExampleTests(SynchronousTestCase):
    """Each example in processes of its own."""

    def setUp(self) -> None:
        self.here = new_directory(self)

    def serve(self) -> Foreground:
        return Foreground(self.here, "durable-streams", "--interface=127.0.0.1", "--port=0")

    def run_example(self, name: str, *arguments: str) -> tuple[int, bytes]:
        done = run_program(self.here, sys.executable, str(EXAMPLES / name), *arguments)
        self.assertEqual(done.stderr, b"")
        return done.returncode, done.stdout

    def test_job_log(self) -> None:
        """`tail` and `read` print the job's log, and `tail` exits."""
        script = r"printf 'out\377\r\n'; head -c 3000000 /dev/zero; printf 'err' >&2; exit 3"
        with self.serve() as server:
            url = f"http://127.0.0.1:{server.port}/v1/stream/jobs/1"
            status, _ = self.run_example("job_log/job_log.py", url, "sh", "-c", script)
            self.assertEqual(status, 3)
            read = run_program(self.here, "durable-streams-server", "tail", url)
            self.assertEqual(read.returncode, 0, read.stderr)
        body, _, end = read.stdout.partition(b"\n[")
        self.assertEqual(end, b"exit status 3]\n")
        self.assertEqual(body.replace(b"err", b""), b"out\xff\r\n" + bytes(3_000_000))

    def test_commands_of_the_readme(self) -> None:
        """The commands for `job_log` and `table_sync` run in a shell as they are printed."""
        job_log = one("examples/README.md", "sh", "job_log")
        table_sync = one("examples/README.md", "sh", "table_sync")
        with self.serve() as server:
            host = f"http://localhost:{server.port}/v1/stream/"
            for block, output in ((job_log, b"made\n"), (table_sync, b"lisbon 24.0\n")):
                script = block.replace("http://localhost:4437/v1/stream/", host)
                script = script.replace("examples/", f"{EXAMPLES}/").replace(
                    "make all", "echo made"
                )
                script = f"export DURABLE_STREAMS_URL={host}\n{script}"
                done = run_program(self.here, "sh", "-ec", script)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertTrue(done.stdout.startswith(output), done.stdout)

    def test_llm_tokens(self) -> None:
        """The answer is stored token by token, whether a client reads it or not."""
        with RunningProgram(
            self.here, sys.executable, str(EXAMPLES / "llm_tokens/app.py"), "0"
        ) as app:
            with urlopen(app.url, timeout=PATIENCE) as page:
                self.assertIn(b"EventSource", page.read())
            asked = Request(app.url + "ask", QUESTION.encode(), method="POST")
            with urlopen(asked, timeout=PATIENCE) as said:
                stream = json.load(said)["stream"]
            url = app.url.rstrip("/") + stream
            read = run_program(self.here, "durable-streams-server", "tail", url)
        tokens = [json.loads(line)["token"] for line in read.stdout.splitlines()]
        self.assertEqual("".join(tokens), ANSWER)
        self.assertEqual(len(tokens), len(ANSWER.split()))

    def test_table_sync(self) -> None:
        """A copy of a table catches up in steps; a write whose response was lost is not
        repeated.
        """
        name = "table_sync/table_sync.py"
        with self.serve() as server:
            url = f"http://127.0.0.1:{server.port}/v1/stream/weather"
            for city, degrees in (("lisbon", "24"), ("oslo", "3"), ("lisbon", "25.5")):
                self.run_example(name, "set", "source.db", city, degrees)
            # The first change is already stored, as if its sender had been killed before the
            # response.
            first = b'{"op": "set", "city": "lisbon", "degrees": 24.0}'
            ask(server.port, "PUT", "weather", b"", "application/json")
            ask(server.port, "POST", "weather", first, "application/json", Stream_Seq=f"{1:016d}")
            self.assertEqual(self.run_example(name, "push", "source.db", url), (0, b""))
            self.assertEqual(len(json.loads(ask(server.port, "GET", "weather")[1])), 3)
            self.run_example(name, "pull", "copy.db", url)
            _, shown = self.run_example(name, "show", "copy.db")
            self.assertEqual(shown, b"lisbon 25.5\noslo 3.0\n")
            self.run_example(name, "remove", "source.db", "oslo")
            self.run_example(name, "push", "source.db", url)
            self.run_example(name, "pull", "copy.db", url)
            _, shown = self.run_example(name, "show", "copy.db")
            self.assertEqual(shown, b"lisbon 25.5\n")
