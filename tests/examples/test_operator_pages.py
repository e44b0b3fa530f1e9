"""Tests of the commands in README.md and in the pages for operators, with real servers."""

from __future__ import annotations

import json
import re
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.examples.blocks import blocks, one
from tests.examples.console_blocks import Command, commands, matches
from tests.examples.programs import RunningProgram, process_environment, run_program
from tests.service.black_box import PATIENCE, ask, new_directory
from tests.service.pem import cached_pem

_HOST = "http://localhost:4437"
_DATA = "/var/lib/durable-streams"


def printed_commands(page: str, containing: str = "") -> list[Command]:
    """Return the commands and output in the ``console`` blocks of a page."""
    text = "".join(
        f"```console\n{block.text}```\n" for block in blocks(page, "console", containing)
    )
    return commands(text)


class PageTestCase(SynchronousTestCase):
    """Test case with a directory of its own for the commands of a page."""

    def setUp(self) -> None:
        self.here = new_directory(self)

    def serve(self, line: str) -> RunningProgram:
        """Start a server with a command of a page, on a port that the system chooses."""
        line = re.sub(r"--port \d+", "", line.replace(_DATA, f"{self.here}/data"))
        port = "" if "--listen" in line else " --port 0"
        return RunningProgram(self.here, "sh", "-c", f"exec {line.strip()}{port}")

    def shell(self, script: str, **variables: str) -> str:
        """Run commands of a page, which must succeed; return their output."""
        for path in (_DATA, "/var/lib/streams", "/backups", "/var/backups", "/tmp/restored"):
            name = "data" if path == _DATA else path.strip("/").replace("/", "-")
            script = script.replace(path, f"{self.here}/{name}")
        exports = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
        done = run_program(self.here, "bash", "-ec", exports + script)
        self.assertEqual(done.returncode, 0, f"{script}\n{done.stderr.decode()}")
        return done.stdout.decode()

    def session(self, found: list[Command], server: RunningProgram) -> None:
        """Run commands in one shell and compare the output of each with the page."""
        host = f"http://localhost:{server.port}"
        script = "".join(f"{command.line}\necho '==='\n" for command in found)
        # Event streams last a minute. The page shows the first events.
        script = script.replace(_HOST, host).replace("curl -N", "curl -sNm 1")
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.here,
            env=process_environment(self.here),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        outputs = done.stdout.split("===\n")
        self.assertEqual(len(outputs), len(found) + 1, done.stderr)
        for command, output in zip(found, outputs, strict=False):
            said = (command.line, command.output, output)
            self.assertTrue(
                matches(command.output, output.rstrip("\n")) or not command.output, said
            )


class ReadmeTests(PageTestCase):
    """First commands of a reader, with the server of the README."""

    def test_commands(self) -> None:
        """The server of the README answers as README, protocol.md and observability.md show."""
        *installing, start = one("README.md", "sh", "pip install").split(" && ")
        self.assertEqual(installing, ["python3 -m venv .venv", ".venv/bin/pip install ."])
        with self.serve(start.replace(".venv/bin/", "")) as server:
            self.session(printed_commands("README.md"), server)
            self.assertEqual(ask(server.port, "HEAD", "hello")[0], 200)
            ask(server.port, "DELETE", "hello")
            self.session(printed_commands("docs/protocol.md", "If-Match"), server)
            fork = printed_commands("docs/protocol.md", "Forked")
            self.session([Command(f"S={_HOST}/v1/stream/hello", ""), *fork], server)
            self.assertEqual(ask(server.port, "GET", "hello-copy"), (200, b"next"))
            self.session(printed_commands("docs/observability.md", "metrics"), server)

    def test_installation(self) -> None:
        """All pages install from a checkout with the same commands."""
        for page in ("docs/index.md", "docs/install.md", "docs/tutorial.md"):
            lines = re.split(r"\n| && ", blocks(page, "sh", "pip install")[0].text)
            self.assertEqual(lines[0], "python3 -m venv .venv")
            self.assertIn("pip install .", lines[1] + lines[2])


class BackupTests(PageTestCase):
    """Backup and restore as on docs/how-to/back-up.md and docs/durability.md."""

    def test_commands(self) -> None:
        """A backup of the running server, restored by the commands of the page, is served."""
        page = "docs/how-to/back-up.md"
        (self.here / "backups").mkdir()
        with self.serve(one("docs/durability.md", "sh")) as server:
            ask(server.port, "PUT", "kept", b"bytes")
            self.shell(one(page, "sh", " backup "))
            self.shell(one(page, "sh", " check "))
            ask(server.port, "POST", "kept", b", lost")
        self.shell(one(page, "sh", " compact "))
        replace, test = blocks(page, "sh", " restore ")
        self.shell(replace.text)
        self.assertEqual(len(list(self.here.glob("data*"))), 2)
        restore, start = test.text.splitlines()
        self.shell(restore)
        with self.serve(start.replace("/tmp/restored", f"{self.here}/tmp-restored")) as again:
            self.assertEqual(ask(again.port, "GET", "kept"), (200, b"bytes"))

    def test_flawed(self) -> None:
        """The commands of docs/durability.md copy a store without its write-ahead log."""
        with self.serve(
            f"durable-streams-server run --data-dir {self.here}/var-lib-streams"
        ) as server:
            ask(server.port, "PUT", "kept", b"bytes")
        for segment in self.here.glob("var-lib-streams/journal.*"):
            segment.unlink()
        lines = [command.line for command in printed_commands("docs/durability.md", "flawed")]
        self.shell("\n".join(lines))
        self.assertTrue((self.here / "var-lib-streams-new" / "data.mdb").exists())


class LogTests(PageTestCase):
    """Logs as on docs/observability.md."""

    def test_lines(self) -> None:
        """The JSON log and the access log have the keys and the form of the page."""
        page = "docs/observability.md"
        start = one(page, "sh", "--log-format").strip() + " --access-log"
        self.assertIn("--access-log", one(page, "sh", "--access-log"))
        with self.serve(start) as server:
            self.assertEqual(json.loads(server.line).keys(), json.loads(one(page, "json")).keys())
            ask(server.port, "GET", "jobs/42?offset=-1")
            while "/jobs/" not in (message := json.loads(server.read_line())["message"]):
                pass
        shown = one(page, "text", "GET").partition("] ")[2].strip()
        form = re.compile(r"[0-9.]+")
        shown = shown.replace(" 5120 ", f" {message.split()[-4]} ")
        self.assertEqual(form.sub("N", message), form.sub("N", shown))


class TLSTests(PageTestCase):
    """TLS and certificates as on docs/how-to/tls.md."""

    def test_commands(self) -> None:
        """The server of the page speaks HTTP/2, and SIGHUP replaces its certificate."""
        page = "docs/how-to/tls.md"
        cached_pem("first").write(self.here)
        start = one(page, "sh", "twistd -n").replace("/etc/streams", str(self.here))
        with self.serve(start.replace("ssl:443:", "ssl:0:interface=127.0.0.1:")) as server:
            self.assertIn(one(page, "text", "HTTP/2").partition(":443")[2].strip(), server.line)
            check = one(page, "sh", "curl").replace("https://localhost", server.url[:-11])
            self.assertEqual(self.shell(check, CURL_CA_BUNDLE=f"{self.here}/cert.pem"), "2\n")
            cached_pem("second").write(self.here)
            self.shell(one(page, "sh", "kill"))
            reloaded = one(page, "text", "Reloaded").partition(":443")[0]
            while reloaded not in server.read_line():
                pass
            self.assertEqual(self.shell(check, CURL_CA_BUNDLE=f"{self.here}/cert.pem"), "2\n")


class SizingTests(PageTestCase):
    """Capacity planning."""

    def test_doctor(self) -> None:
        """`doctor` accepts the settings file of the documentation."""
        settings = one("docs/configuration.md", "toml", "max-stored")
        (self.here / "streams.toml").write_text(settings.replace(_DATA, f"{self.here}/data"))
        said = run_program(self.here, "sh", "-c", one("docs/how-to/sizing.md", "sh"))
        self.assertIn(said.returncode, (0, 1))
        self.assertIn(b"data directory", said.stdout)
