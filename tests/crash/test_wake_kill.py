"""Tests of the server process, killed during webhook deliveries."""

from __future__ import annotations

import http.client
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

from tests.crash.server import Server, ServerCase
from tests.storage.fsck_assertions import assert_sound_directory
from tests.subscriptions.test_keyring import verify

_PATIENCE = 30.0
_LEASE = 2_000
_ROOT = "/v1/stream/"
_JSON = {"Content-Type": "application/json"}


class Receiver:
    """Webhook receiver that keeps its requests and responds when the test says."""

    def __init__(self) -> None:
        received: Queue[tuple[dict[str, Any], bytes, str]] = Queue()
        answer = Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                received.put((json.loads(raw), raw, self.headers["Webhook-Signature"]))
                answer.wait(_PATIENCE)
                self.send_response(202)
                self.send_header("Content-Length", "0")
                try:
                    self.end_headers()
                except ConnectionError:
                    # The server has been killed meanwhile.
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.received = received
        self.answer = answer
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def take(self) -> tuple[dict[str, Any], bytes, str]:
        """Return the next request."""
        return self.received.get(timeout=_PATIENCE)

    def close(self) -> None:
        self.answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class WakeKillTests(ServerCase):
    """Acknowledged cursors never move back, no wake is lost, and stale tokens are refused."""

    def setUp(self) -> None:
        super().setUp()
        self.server = Server(self.directory)

    def kill(self) -> None:
        """Kill the server and start it again."""
        self.server.kill()
        assert_sound_directory(self, self.directory)
        self.server = Server(self.directory)

    def ask(
        self, method: str, path: str, body: Any = None, token: str | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=_PATIENCE)
        try:
            header = dict(_JSON) if token is None else {**_JSON, "Authorization": f"Bearer {token}"}
            raw = None if body is None else json.dumps(body)
            connection.request(method, _ROOT + path, raw, header)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None
        finally:
            connection.close()

    def acked(self, name: str) -> dict[str, str]:
        _, body = self.ask("GET", f"__ds/subscriptions/{name}")
        return {stream["path"]: stream["acked_offset"] for stream in body["streams"]}

    def test_webhook(self) -> None:
        receiver = Receiver()
        self.addCleanup(receiver.close)
        asked = {
            "type": "webhook",
            "pattern": "events/*",
            "webhook": {"url": receiver.url},
            "lease_ttl_ms": _LEASE,
        }
        status, made = self.ask("PUT", "__ds/subscriptions/s", asked)
        self.assertEqual(status, 201)
        self.assertEqual(self.ask("PUT", "events/a", [1])[0], 201)
        first, _, _ = receiver.take()
        # The receiver has the request and has not responded: no worker holds the wake.
        self.kill()
        told, raw, signature = receiver.take()
        self.assertEqual((told["wake_id"], told["generation"]), (first["wake_id"], 1))
        status, keys = self.ask("GET", "__ds/jwks.json")
        self.assertTrue(verify(raw, signature, json.dumps(keys).encode()))
        self.assertFalse(verify(raw + b" ", signature, json.dumps(keys).encode()))
        self.assertIn(made["webhook"]["signing"]["kid"], signature)
        receiver.answer.set()
        (stream,) = told["streams"]
        done = {
            "wake_id": told["wake_id"],
            "generation": 1,
            "acks": [{"stream": "events/a", "offset": stream["tail_offset"]}],
            "done": True,
        }
        path = told["callback_url"].partition(_ROOT)[2]
        # The token of the request before the crash is valid: it belongs to the same wake.
        reply = self.ask("POST", path, done, first["callback_token"])
        self.assertEqual(reply, (200, {"ok": True, "next_wake": False}))
        self.kill()
        self.assertEqual(self.acked("s"), {"events/a": stream["tail_offset"]})
        for token in (first["callback_token"], told["callback_token"]):
            status, body = self.ask("POST", path, done, token)
            self.assertEqual((status, body["error"]["code"]), (409, "FENCED"))
        self.assertRaises(Empty, receiver.received.get_nowait)
        self.assertEqual(self.ask("POST", "events/a", [2])[0], 204)
        again, _, _ = receiver.take()
        self.assertEqual(again["generation"], 2)
        self.assertEqual(again["streams"][0]["acked_offset"], stream["tail_offset"])
        self.server.stop()
        assert_sound_directory(self, self.directory)

    def test_pull_wake(self) -> None:
        self.ask("PUT", "wake", [])
        asked = {
            "type": "pull-wake",
            "pattern": "events/*",
            "wake_stream": "wake",
            "lease_ttl_ms": _LEASE,
        }
        self.assertEqual(self.ask("PUT", "__ds/subscriptions/p", asked)[0], 201)
        self.ask("PUT", "events/a", [1])
        self.ask("PUT", "events/b", [1])
        status, claimed = self.ask("POST", "__ds/subscriptions/p/claim", {"worker": "w"})
        self.assertEqual(status, 200)
        wake = {"wake_id": claimed["wake_id"], "generation": 1}
        tail = claimed["streams"][0]["tail_offset"]
        beat = {**wake, "acks": [{"stream": "events/a", "offset": tail}]}
        token = claimed["token"]
        self.assertEqual(self.ask("POST", "__ds/subscriptions/p/ack", beat, token)[0], 200)
        acknowledged = time.monotonic()
        self.kill()
        self.assertEqual(self.acked("p")["events/a"], tail)
        status, body = self.ask("POST", "__ds/subscriptions/p/claim", {"worker": "v"})
        if time.monotonic() < acknowledged + _LEASE / 1000:
            self.assertEqual((status, body["error"]["current_holder"]), (409, "w"))
        # The lease expires, and the remaining work causes the next wake.
        deadline = time.monotonic() + _PATIENCE
        while status != 200:
            assert time.monotonic() < deadline, body
            time.sleep(0.05)
            status, body = self.ask("POST", "__ds/subscriptions/p/claim", {"worker": "v"})
        self.assertEqual(body["generation"], 2)
        self.assertEqual([stream["path"] for stream in body["streams"]], ["events/b"])
        status, stale = self.ask("POST", "__ds/subscriptions/p/ack", {**wake, "done": True}, token)
        self.assertEqual((status, stale["error"]["code"]), (409, "FENCED"))
        _, events = self.ask("GET", "wake")
        self.assertEqual([event["generation"] for event in events], [1, 2])
        self.server.stop()
        assert_sound_directory(self, self.directory)
