"""All nodes of a database have one keyring, which one of them makes and any may rotate."""

from __future__ import annotations

import json
import threading
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.postgres.connection import DatabaseSettings, connect
from durable_streams_tw.storage.postgres.keyring import KeyringTable
from durable_streams_tw.storage.postgres.migrations import migrate
from durable_streams_tw.subscriptions.keyring import Keyring
from durable_streams_tw.subscriptions.limits import KEY_OVERLAP
from tests.postgres.cluster import shared_cluster
from tests.subscriptions.test_keyring import verify

NOW = 1_800_000_000


class SharedKeyringTests(SynchronousTestCase):
    def setUp(self) -> None:
        cluster = shared_cluster()
        self.settings = DatabaseSettings(cluster.url(cluster.create_database()), unsafe=True)
        self.now = float(NOW)
        with connect(self.settings) as connection:
            migrate(connection, self.settings, NOW * 1000)

    def run_in_session(self, function: Any) -> Deferred[Any]:
        with connect(self.settings) as connection:
            return succeed(function(connection))

    def open(self, rotate: bool = False) -> tuple[Keyring, KeyringTable]:
        secret = KeyringTable(self.settings, self.run_in_session)
        keyring = Keyring(None, lambda: self.now, secret)
        keyring.open(rotate)
        return keyring, secret

    def test_nodes_sign_and_check_alike(self) -> None:
        (one, _), (two, _) = self.open(), self.open()
        self.assertEqual((one.kid, one.secret), (two.kid, two.secret))
        self.assertTrue(verify(b"x", one.sign(b"x"), two.jwks()))

    def test_nodes_that_start_together_make_one_keyring(self) -> None:
        opened: list[Keyring] = []
        threads = [threading.Thread(target=lambda: opened.append(self.open()[0])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(opened), 4)
        self.assertEqual(len({keyring.secret for keyring in opened}), 1)

    def test_node_adopts_the_key_that_another_adds(self) -> None:
        """Nodes that are started with a rotation one after another add one key."""
        one, secret = self.open()
        two, _ = self.open(rotate=True)
        three, _ = self.open(rotate=True)
        self.assertEqual(len(json.loads(one.jwks())["keys"]), 1)
        content = self.successResultOf(secret.read())
        assert isinstance(content, bytes)
        one.adopt(content)
        self.assertEqual(len(json.loads(one.jwks())["keys"]), 2)
        self.now += KEY_OVERLAP
        for keyring in (two, three):
            self.assertTrue(verify(b"x", keyring.sign(b"x"), one.jwks()))

    def test_damaged_keyring_is_refused(self) -> None:
        self.open()
        with connect(self.settings) as connection:
            connection.execute("UPDATE secret SET value = 'nonsense'")
        error = self.assertRaises(StoreUnusable, self.open)
        self.assertIn("the keyring in the database is damaged", str(error))

    def test_database_that_cannot_be_reached_is_an_error(self) -> None:
        nowhere = DatabaseSettings("postgresql://127.0.0.1:1/x")
        keyring = Keyring(None, lambda: self.now, KeyringTable(nowhere, self.run_in_session))
        self.assertRaises(StoreUnusable, keyring.open)
