"""Tests of the programs and commands in docs/subscriptions.md."""

from __future__ import annotations

import json
import re
import shutil
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.examples.console_blocks import commands, matches
from tests.examples.programs import TOP, RunningProgram, run_program
from tests.service.black_box import PATIENCE

PAGE = (TOP / "docs" / "subscriptions.md").read_text("utf-8")


class SubscriptionsPageTests(SynchronousTestCase):
    """The webhook worker for Node, and the pull-wake commands, as they are on the page."""

    def test_verifies(self) -> None:
        """It reads what a signed webhook names, and answers other requests with 401."""
        if shutil.which("node") is None:
            raise SkipTest("Node is not installed")
        here = Path(self.mktemp()).absolute()
        here.mkdir()
        (program,) = re.findall(r"```javascript\n(.*?)```", PAGE, re.DOTALL)
        (subscribe,) = [command.line for command in commands(PAGE) if "sub create" in command.line]
        with RunningProgram(here, "durable-streams-server", "dev", "--port", "0") as server:
            text = program.replace("http://localhost:4437/v1/stream", server.url.rstrip("/"))
            (here / "worker.mjs").write_text(text.replace("8080", "0"), "utf-8")
            with RunningProgram(here, "node", "worker.mjs") as worker:
                with urlopen(f"{server.url}__ds/jwks.json", timeout=PATIENCE) as response:
                    (key,) = json.load(response)["keys"]
                self.assertEqual(self.forged(worker.port, key["kid"]), 401)
                shell = f"export DURABLE_STREAMS_URL={server.url}; set -e\n" + "\n".join(
                    (
                        subscribe.replace("8080", str(worker.port)),
                        "durable-streams-server append invoices/1 --create paid",
                    )
                )
                done = run_program(here, "sh", "-c", shell)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(worker.read_line(), "invoices/1 paid\n")

    def test_pull_wake(self) -> None:
        """The commands of the section on pull-wake print what the page shows."""
        here = Path(self.mktemp()).absolute()
        here.mkdir()
        section = PAGE.partition("## Create a pull-wake")[2].partition("\n## ")[0]
        found = commands(section)
        self.assertEqual(len(found), 6)
        with RunningProgram(here, "durable-streams-server", "dev", "--port", "0") as server:
            script = "".join(f"{command.line}\necho\n" for command in found)
            script = script.replace("http://localhost:4437/v1/stream", server.url.rstrip("/"))
            done = run_program(here, "sh", "-ec", script)
        shown = "".join(command.output for command in found)
        printed = "\n".join(line for line in done.stdout.decode().splitlines() if line)
        self.assertTrue(matches(shown, printed), (shown, printed, done.stderr))

    def forged(self, port: int, kid: str) -> int:
        """Return the status of a request with the false signature of a key."""
        connection = HTTPConnection("localhost", port, timeout=PATIENCE)
        header = {"Webhook-Signature": f"t={int(time.time())},kid={kid},ed25519={'A' * 86}"}
        connection.request("POST", "/hook", b"{}", header)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status
