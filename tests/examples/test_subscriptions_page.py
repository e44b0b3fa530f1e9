"""Tests of the programs and commands in docs/subscriptions.md."""

from __future__ import annotations

import json
import re
import shutil
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Thread
from typing import Any
from urllib.request import urlopen

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.examples.blocks import blocks
from tests.examples.console_blocks import commands, matches
from tests.examples.programs import TOP, RunningProgram, run_program
from tests.service.black_box import PATIENCE, ROOT, ask, new_directory

PAGE = (TOP / "docs" / "subscriptions.md").read_text("utf-8")


JSON_BLOCKS = [json.loads(block.text) for block in blocks("docs/subscriptions.md", "json")]


def settle(port: int, path: str, shown: dict[str, Any], wake: dict[str, Any], token: str) -> int:
    """Send a request body of the page for a wake and return the status.

    Values that differ in each run are those of the wake.
    """
    (ack,) = shown["acks"]
    (stream,) = wake["streams"]
    ack = {**ack, "offset": stream["tail_offset"]}
    body = {**shown, "acks": [ack], **{key: wake[key] for key in ("wake_id", "generation")}}
    return ask(
        port,
        "POST",
        path,
        json.dumps(body).encode(),
        "application/json",
        Authorization=f"Bearer {token}",
    )[0]


class SubscriptionsPageTests(SynchronousTestCase):
    """The webhook worker for Node, and the pull-wake commands, as they are on the page."""

    def test_verifies(self) -> None:
        """The worker reads the streams of a signed webhook, and refuses other requests with 401."""
        if shutil.which("node") is None:
            raise SkipTest("Node is not installed")
        here = new_directory(self)
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
        here = new_directory(self)
        section = PAGE.partition("## Create a pull-wake")[2].partition("\n## ")[0]
        found = commands(section)
        self.assertEqual(len(found), 6)
        with RunningProgram(here, "durable-streams-server", "dev", "--port", "0") as server:
            script = "".join(f"{command.line}\necho\n" for command in found)
            script = script.replace("http://localhost:4437/v1/stream", server.url.rstrip("/"))
            done = run_program(here, "sh", "-ec", script)
            printed = [line for line in done.stdout.decode().splitlines() if line]
            ack, claimed = JSON_BLOCKS[2], json.loads(printed[-1])
            path = "__ds/subscriptions/jobs/ack"
            self.assertEqual(settle(server.port, path, ack, claimed, claimed["token"]), 200)
        shown = "".join(command.output for command in found)
        self.assertTrue(matches(shown, "\n".join(printed)), (shown, printed, done.stderr))

    def test_webhook(self) -> None:
        """A webhook has the fields of the page, and the page's callback ends the wake."""
        here = new_directory(self)
        received: SimpleQueue[dict[str, Any]] = SimpleQueue()

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(202)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Log nothing."""

        receiver = ThreadingHTTPServer(("localhost", 0), Receiver)
        self.addCleanup(receiver.server_close)
        self.addCleanup(receiver.shutdown)
        Thread(target=receiver.serve_forever, daemon=True).start()
        section = PAGE.partition("## Create a webhook")[2].partition("\n## ")[0]
        script = "\n".join(command.line for command in commands(section)[:2])
        hook = f"http://localhost:{receiver.server_port}/hook"
        script = script.replace("https://worker.example/hook", hook)
        with RunningProgram(here, "durable-streams-server", "dev", "--port", "0") as server:
            script = script.replace("http://localhost:4437/v1/stream", server.url.rstrip("/"))
            done = run_program(here, "sh", "-ec", script)
            self.assertIn(b"mailer", done.stdout, done.stderr)
            self.assertEqual(ask(server.port, "PUT", "orders/17", b"tea")[0], 201)
            wake = received.get(timeout=PATIENCE)
            shown = JSON_BLOCKS[0]
            self.assertEqual(wake.keys(), shown.keys())
            self.assertEqual(wake["streams"][0].keys(), shown["streams"][0].keys())
            path = wake["callback_url"].partition(ROOT)[2]
            status = settle(server.port, path, JSON_BLOCKS[1], wake, wake["callback_token"])
            self.assertEqual(status, 200)
            path = "__ds/subscriptions/mailer"
            _, body = ask(server.port, "GET", path)
            (stream,) = json.loads(body)["streams"]
            self.assertEqual(stream["acked_offset"], wake["streams"][0]["tail_offset"])

    def forged(self, port: int, kid: str) -> int:
        """Return the status of a request with the false signature of a key."""
        connection = HTTPConnection("localhost", port, timeout=PATIENCE)
        header = {"Webhook-Signature": f"t={int(time.time())},kid={kid},ed25519={'A' * 86}"}
        connection.request("POST", "/hook", b"{}", header)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status
