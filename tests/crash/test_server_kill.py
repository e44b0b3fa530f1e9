"""Tests of the server process, killed under HTTP load and restarted."""

from __future__ import annotations

import http.client
import random
import time

from tests.crash.server import Producer, Server, ServerCase
from tests.crash.test_kill import ROUNDS, SEED
from tests.storage.fsck_assertions import assert_sound_directory


class ServerKillTests(ServerCase):
    """Acknowledged appends over HTTP survive a crash."""

    def check(self, server: Server, producers: list[Producer]) -> list[int]:
        """Return the number of stored messages of each producer.

        Each must have all acknowledged messages, and at most one more.
        """
        stored = [producer.stored(server) for producer in producers]
        for producer, number in zip(producers, stored, strict=True):
            self.assertIn(number, (producer.acknowledged, producer.acknowledged + 1))
        return stored

    def test_producers(self) -> None:
        """Eight clients on five streams lose no acknowledged message."""
        chance = random.Random(SEED)
        server, producers = self.start()
        for _ in range(max(2, ROUNDS // 2)):
            before = [producer.acknowledged for producer in producers]
            with server.load(producers):
                while any(p.acknowledged < b + 3 for p, b in zip(producers, before, strict=True)):
                    time.sleep(0.01)
                time.sleep(chance.random() * 0.2)
                server.kill()
            assert_sound_directory(self, self.directory)
            server = Server(self.directory)
            stored = self.check(server, producers)
            for producer, number in zip(producers, stored, strict=True):
                duplicate = number > producer.acknowledged
                connection = http.client.HTTPConnection("127.0.0.1", server.port)
                self.assertEqual(producer.post(connection), 204 if duplicate else 200)
                connection.close()
            self.assertEqual(self.check(server, producers), [p.acknowledged for p in producers])
        server.stop()
        assert_sound_directory(self, self.directory)
