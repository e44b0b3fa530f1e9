"""Nodes that share a database, observed over HTTP while the database or a node fails."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from http.client import HTTPConnection
from queue import Empty
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.crash.test_wake_kill import Receiver
from tests.postgres.cluster import Cluster, running_cluster, shared_cluster
from tests.postgres.fault_proxy import Cut, FaultProxy
from tests.postgres.nodes import Node, Response, ask
from tests.service.black_box import PATIENCE, ROOT, new_directory
from tests.sse_parser import Parser
from tests.subscriptions.test_keyring import verify
from tests.traffic import Traffic

# Messages of each producer before and after a fault.
MESSAGES = 5
JSON = "application/json"


class Follower:
    """SSE connection to a stream at its tail."""

    def __init__(self, node: Node, path: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE)
        self._connection.request("GET", f"{ROOT}{path}?offset=now&live=sse")
        self._response = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()
        self._parser = Parser()
        self._events = self._parser.feed(self._response.read1())

    def next_data(self) -> str:
        """Return the data of the next data event."""
        while True:
            for event in self._events:
                if event.type == "data":
                    self._events.remove(event)
                    return event.data
            piece = self._response.read1(65536)
            assert piece, "the connection has ended"
            self._events += self._parser.feed(piece)

    def close(self) -> None:
        self._connection.close()


class NodeCase(SynchronousTestCase):
    """Two nodes on a database of their own; its connections can be cut by `proxy`."""

    cluster: Cluster
    #: Options of both nodes.
    options: tuple[str, ...] = ("--database-timeout", "2s", "--long-poll-timeout", "2s")

    def setUp(self) -> None:
        self.directory = new_directory(self)
        self.cluster = self.make_cluster()
        self.database = self.cluster.create_database()
        self.proxy = FaultProxy(self.cluster.port)
        self.proxy.__enter__()
        self.addCleanup(self.proxy.__exit__, None, None, None)
        self.one, self.two = self.make_node("one"), self.make_node("two")
        self.one.launch()
        self.two.launch()
        self.one.await_ready()
        self.two.await_ready()

    def make_cluster(self) -> Cluster:
        return shared_cluster()

    def tearDown(self) -> None:
        if self.cluster.running:
            self.assertEqual(self.cluster.deadlocks(), 0)

    def make_node(self, name: str, *options: str) -> Node:
        url = self.cluster.url(self.database, port=self.proxy.port)
        node = Node(self.directory, name, url, *self.options, *options)
        self.addCleanup(self.check, node)
        return node

    def check(self, node: Node) -> None:
        """Stop a node; its log shows no bug."""
        node.stop()
        self.assertEqual(node.complaints(), [])

    def create(self, path: str, node: Node | None = None) -> None:
        response = (node or self.one).ask("PUT", path)
        self.assertEqual(response.status, 201, response.body)

    def append(self, node: Node, path: str, data: bytes) -> None:
        response = node.ask("POST", path, data)
        self.assertEqual(response.status, 204, response.body)

    def follow(self, node: Node, path: str) -> Follower:
        follower = Follower(node, path)
        self.addCleanup(follower.close)
        return follower

    def until(self, question: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until a question is answered with True."""
        deadline = time.monotonic() + seconds
        while not question():
            self.assertLess(time.monotonic(), deadline, self.one.log + self.two.log)
            time.sleep(0.05)

    def metrics(self, node: Node) -> dict[str, float]:
        """Return the metrics of a node that have no labels, without the namespace."""
        text = ask(node.port, "GET", "/-/metrics").body.decode()
        found = re.findall(r"^durable_streams_(\w+) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def probe(self, node: Node, name: str) -> int:
        return ask(node.port, "GET", f"/-/{name}").status


class SharingTests(NodeCase):
    """Nodes without faults."""

    def test_write_at_one_node_is_read_at_the_other(self) -> None:
        """A read that begins after an acknowledgement sees the append, at any node."""
        self.create("s")
        for number in range(50):
            writer, reader = (self.one, self.two) if number % 2 else (self.two, self.one)
            self.append(writer, "s", b"%d;" % number)
            expected = b"".join(b"%d;" % earlier for earlier in range(number + 1))
            self.assertEqual(reader.ask("GET", "s").body, expected)

    def test_append_wakes_readers_at_the_other_node(self) -> None:
        self.create("s")
        follower = self.follow(self.two, "s")
        start = time.monotonic()
        for number in range(20):
            self.append(self.one, "s", b"%d" % number)
            self.assertEqual(follower.next_data(), str(number))
        # Without notifications, polling once a second would take ten seconds on average.
        self.assertLess(time.monotonic() - start, 8)

    def test_metrics_count_hints_and_the_state_of_the_database(self) -> None:
        self.create("s")
        follower = self.follow(self.two, "s")

        def hinted() -> bool:
            # A node that has just found itself alone sends no hints.
            self.append(self.one, "s", b"x")
            self.assertEqual(follower.next_data(), "x")
            return self.metrics(self.two)["hints_total"] > 0

        self.until(hinted)
        metrics = self.metrics(self.two)
        for name in ("database_reconnects_total", "deferred_commands_total"):
            self.assertEqual(metrics[name], 0)
        for name in ("database_dead_rows", "database_snapshot_seconds"):
            self.assertGreaterEqual(metrics[name], 0)
        self.until(lambda: self.metrics(self.two)["database_nodes"] == 2)

    def test_nodes_that_rotate_the_webhook_key_add_one(self) -> None:
        """Nodes that are started with the option one after another publish the same two keys."""
        published = []
        for name in ("three", "four"):
            node = self.make_node(name, "--rotate-webhook-key")
            node.start()
            published.append(node.ask("GET", "__ds/jwks.json").body)
        self.assertEqual(len(json.loads(published[0])["keys"]), 2)
        self.assertEqual(published[0], published[1])

    def test_producer_is_exactly_once_over_nodes(self) -> None:
        self.create("s")
        for number in range(10):
            for node in (self.one, self.two):
                status = node.ask(
                    *("POST", "s", b"%d;" % number),
                    Producer_Id="p",
                    Producer_Epoch="0",
                    Producer_Seq=str(number),
                ).status
                self.assertEqual(status, 200 if node is self.one else 204)
        self.assertEqual(
            self.two.ask("GET", "s").body, b"".join(b"%d;" % number for number in range(10))
        )

    def test_log_says_what_acknowledged_writes_survive(self) -> None:
        for node in (self.one, self.two):
            self.assertIn("do not survive a crash of the database's machine", node.log)
            self.assertIn("stored in PostgreSQL", node.log)

    def test_password_is_in_no_output(self) -> None:
        url = self.cluster.url(self.database, tcp=True).replace("///", "//postgres:geheim@/")
        node = Node(self.directory, "three", url, *self.options, "--console")
        self.addCleanup(self.check, node)
        node.start()
        for page in ("metrics", "streams", "ready"):
            self.assertNotIn(b"geheim", ask(node.port, "GET", f"/-/{page}").body)
        node.stop()
        self.assertNotIn("geheim", node.log)

    def test_second_process_of_a_name_is_another_node(self) -> None:
        again = self.make_node("one")
        again.start()
        self.create("s")
        for node in (self.one, again, self.one):
            self.append(node, "s", b"x")
        self.assertEqual(again.ask("GET", "s").body, b"xxx")


class LostHintTests(NodeCase):
    """Nodes that receive no notifications."""

    def setUp(self) -> None:
        self.deaf = FaultProxy(shared_cluster().port)
        self.deaf.__enter__()
        self.addCleanup(self.deaf.__exit__, None, None, None)
        super().setUp()

    def make_node(self, name: str, *options: str) -> Node:
        url = self.cluster.url(self.database, port=self.deaf.port)
        return super().make_node(name, "--database-listen", url, *options)

    def test_readers_find_appends_by_looking(self) -> None:
        self.create("s")
        follower = self.follow(self.two, "s")
        self.append(self.one, "s", b"heard")
        self.assertEqual(follower.next_data(), "heard")
        self.deaf.freeze()
        for number in range(3):
            self.append(self.one, "s", b"%d" % number)
            start = time.monotonic()
            self.assertEqual(follower.next_data(), str(number))
            self.assertLess(time.monotonic() - start, 5)
        self.assertGreaterEqual(self.metrics(self.two)["late_changes_total"], 3)
        self.deaf.thaw()


class DatabaseAwayTests(NodeCase):
    """The database cannot be reached for a while."""

    def test_requests_are_refused_and_live_readers_stay(self) -> None:
        self.create("s")
        follower = self.follow(self.two, "s")
        self.append(self.one, "s", b"before")
        self.assertEqual(follower.next_data(), "before")
        self.proxy.refuse()
        for response in (
            self.one.ask("GET", "s"),
            self.one.ask("POST", "s", b"lost"),
            self.one.ask("PUT", "new"),
        ):
            self.assertEqual(response.status, 503, response.body)
            self.assertIsNotNone(response.headers["Retry-After"])
        self.assertEqual(self.probe(self.one, "live"), 200)
        self.assertEqual(self.probe(self.one, "ready"), 503)
        self.proxy.accept()
        self.until(lambda: self.probe(self.one, "ready") == 200)
        self.append(self.one, "s", b"after")
        self.assertEqual(follower.next_data(), "after")
        self.assertEqual(self.two.ask("GET", "s").body, b"beforeafter")

    def test_append_waits_for_a_database_that_comes_back(self) -> None:
        self.create("s")
        self.proxy.refuse()
        answers: list[Response] = []
        with socket.create_connection(("127.0.0.1", self.one.port), PATIENCE) as client:
            client.sendall(
                b"POST %ss HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
                b"Connection: close\r\nContent-Length: 1\r\n\r\nx" % ROOT.encode()
            )
            time.sleep(0.5)
            self.proxy.accept()
            answer = client.makefile("rb").read()
        self.assertIn(b" 204 ", answer.split(b"\r\n", 1)[0], answers)
        self.assertEqual(self.two.ask("GET", "s").body, b"x")


class TrafficTests(NodeCase):
    """Producers and readers at both nodes, while something fails."""

    options = ("--database-timeout", "20s", "--long-poll-timeout", "2s")

    def make_cluster(self) -> Cluster:
        block = running_cluster(durable=True)
        self.addCleanup(block.__exit__, None, None, None)
        return block.__enter__()

    def traffic(self) -> Traffic:
        traffic = Traffic([self.one.port, self.two.port], 4, "t")
        traffic.start()
        traffic.await_progress(MESSAGES)
        return traffic

    def finish(self, traffic: Traffic) -> None:
        traffic.await_progress(MESSAGES)
        self.assertEqual(traffic.finish(), [], traffic.report())

    def test_connections_cut_at_commit(self) -> None:
        """A node whose commit gets no response finds out the outcome, and reports it once."""
        traffic = self.traffic()
        for moment in 3 * tuple(Cut):
            self.proxy.cut_at_commit(moment, "INSERT INTO chunk")
            self.until(lambda: not self.proxy.armed)
            traffic.await_progress(1)
        self.finish(traffic)

    def test_killed_server_that_is_restarted(self) -> None:
        traffic = self.traffic()
        self.cluster.kill()
        time.sleep(0.5)
        self.cluster.start()
        self.finish(traffic)

    def test_killed_node(self) -> None:
        traffic = self.traffic()
        self.two.stop(signal.SIGKILL)
        traffic.await_progress(MESSAGES)
        self.two.start()
        self.finish(traffic)

    def test_frozen_node(self) -> None:
        """Rows that a frozen node has locked are free after five seconds."""
        traffic = self.traffic()
        self.two.send(signal.SIGSTOP)
        at_one = [writer for writer in traffic.writers if writer.port == self.one.port]
        before = [writer.acknowledged for writer in at_one]
        self.until(
            lambda: all(
                writer.acknowledged > number for writer, number in zip(at_one, before, strict=True)
            )
        )
        self.two.send(signal.SIGCONT)
        self.finish(traffic)


class FullDiskTests(NodeCase):
    """A database whose tables are on a small file system."""

    def make_cluster(self) -> Cluster:
        block = running_cluster()
        cluster = block.__enter__()
        self.place = cluster.directory / "small"
        self.place.mkdir()
        mounted = self.mount("size=32m")
        if mounted.returncode:
            block.__exit__(None, None, None)
            raise SkipTest(f"cannot mount a small file system: {mounted.stderr.decode()}")
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(self.place)])
        self.addCleanup(block.__exit__, None, None, None)
        owner = cluster.data.stat()
        os.chown(self.place, owner.st_uid, owner.st_gid)
        self.place.chmod(0o700)
        cluster.execute(f"CREATE TABLESPACE small LOCATION '{self.place}'")
        cluster.execute("ALTER DATABASE postgres SET default_tablespace = small")
        return cluster

    def mount(self, options: str) -> subprocess.CompletedProcess[bytes]:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.place)]
        return subprocess.run(command, capture_output=True)

    def make_node(self, name: str, *options: str) -> Node:
        database = f'ALTER DATABASE "{self.database}" SET default_tablespace = small'
        self.cluster.execute(database)
        return super().make_node(name, *options)

    def test_writes_are_refused_until_there_is_room(self) -> None:
        """A full disk answers 507; reads go on."""
        self.create("kept")
        self.append(self.one, "kept", b"x")
        self.create("full")
        piece = os.urandom(1 << 20)
        for _ in range(64):
            response = self.one.ask("POST", "full", piece)
            if response.status != 204:
                break
        self.assertEqual(response.status, 507, response.body)
        self.assertEqual(self.two.ask("GET", "kept").body, b"x")
        self.assertEqual(self.mount("remount,size=128m").returncode, 0)
        self.append(self.one, "full", piece)
        self.append(self.two, "kept", b"y")
        self.assertEqual(self.one.ask("GET", "kept").body, b"xy")


class WebhookTests(NodeCase):
    """Subscriptions of several nodes."""

    def subscribe(self, lease: int = 30_000) -> Receiver:
        receiver = Receiver()
        self.addCleanup(receiver.close)
        asked = {
            "type": "webhook",
            "pattern": "events/*",
            "webhook": {"url": receiver.url},
            "lease_ttl_ms": lease,
        }
        response = self.control("PUT", "subscriptions/s", asked, self.one)
        self.assertEqual(response.status, 201, response.body)
        return receiver

    def control(
        self, method: str, path: str, body: Any, node: Node, token: str | None = None
    ) -> Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        raw = None if body is None else json.dumps(body).encode()
        return node.ask(method, f"__ds/{path}", raw, JSON, **headers)

    def test_one_node_calls_and_the_other_takes_the_callback(self) -> None:
        """Tokens and keys are valid at all nodes; the next wake also makes a single call."""
        receiver = self.subscribe()
        receiver.answer.set()
        self.create("events/a", self.two)
        self.append(self.two, "events/a", b"x")
        told, raw, signature = receiver.take()
        for node in (self.one, self.two):
            keys = self.control("GET", "jwks.json", None, node).body
            self.assertTrue(verify(raw, signature, keys))
        self.append(self.one, "events/a", b"y")
        (stream,) = told["streams"]
        done = {
            "wake_id": told["wake_id"],
            "generation": told["generation"],
            "acks": [{"stream": stream["path"], "offset": stream["tail_offset"]}],
            "done": True,
        }
        response = self.control(
            "POST", "subscriptions/s/callback", done, self.one, told["callback_token"]
        )
        self.assertEqual(response.status, 200, response.body)
        again, _, _ = receiver.take()
        self.assertEqual(again["generation"], 2)
        self.assertRaises(Empty, receiver.received.get, timeout=3)

    def test_other_node_calls_after_a_node_died(self) -> None:
        receiver = self.subscribe()
        self.create("events/a", self.two)
        self.append(self.two, "events/a", b"x")
        first, _, _ = receiver.take()
        self.two.stop(signal.SIGKILL)
        killed = time.monotonic()
        again, _, _ = receiver.take()
        self.assertEqual(again["wake_id"], first["wake_id"])
        self.assertLess(time.monotonic() - killed, 30)

    def test_other_node_calls_at_once_after_a_node_stopped(self) -> None:
        receiver = self.subscribe()
        self.create("events/a", self.two)
        self.append(self.two, "events/a", b"x")
        first, _, _ = receiver.take()
        self.two.stop()
        stopped = time.monotonic()
        again, _, _ = receiver.take()
        self.assertEqual(again["wake_id"], first["wake_id"])
        self.assertLess(time.monotonic() - stopped, 10)
