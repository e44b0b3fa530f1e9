"""The proxy of tests/postgres/fault_proxy.py cuts connections at the chosen point of a COMMIT."""

from __future__ import annotations

import threading
import time

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from tests.postgres.cluster import shared_cluster
from tests.postgres.fault_proxy import Cut, FaultProxy


class TestFaultProxy(SynchronousTestCase):
    def setUp(self) -> None:
        self.cluster = shared_cluster()
        self.database = self.cluster.create_database()
        self.cluster.execute("CREATE TABLE kept (number int)", self.database)
        self.proxy = FaultProxy(self.cluster.port)
        self.proxy.__enter__()
        self.addCleanup(self.proxy.__exit__, None, None, None)

    def connect(self) -> psycopg.Connection:
        url = self.cluster.url(self.database, port=self.proxy.port)
        session = psycopg.connect(url, autocommit=True)
        session.prepare_threshold = 0
        self.addCleanup(session.close)
        return session

    def insert(self, session: psycopg.Connection, number: int, pipelined: bool) -> None:
        def statements() -> None:
            session.execute("BEGIN")
            session.execute("INSERT INTO kept VALUES (%s)", (number,))
            session.execute("COMMIT")

        if pipelined:
            with session.pipeline():
                statements()
        else:
            statements()

    def kept(self) -> list[int]:
        rows = self.cluster.execute("SELECT number FROM kept ORDER BY 1", self.database)
        return [int(number) for (number,) in rows]

    def test_cut_before_commit_leaves_no_row(self) -> None:
        for pipelined in (False, True):
            session = self.connect()
            self.insert(session, 1, pipelined)
            self.proxy.cut_at_commit(Cut.BEFORE)
            self.assertRaises(psycopg.OperationalError, self.insert, session, 2, pipelined)
        self.assertEqual(self.kept(), [1, 1])
        self.assertEqual(self.proxy.cuts, 2)

    def test_cut_within_commit_leaves_the_row_and_an_error(self) -> None:
        for pipelined in (False, True):
            session = self.connect()
            self.proxy.cut_at_commit(Cut.WITHIN)
            self.assertRaises(psycopg.OperationalError, self.insert, session, 2, pipelined)
        self.assertEqual(self.kept(), [2, 2])

    def test_cut_after_commit_breaks_the_next_statement_only(self) -> None:
        session = self.connect()
        self.proxy.cut_at_commit(Cut.AFTER)
        self.insert(session, 3, pipelined=False)
        self.assertEqual(self.kept(), [3])
        self.assertRaises(psycopg.OperationalError, session.execute, "SELECT 1")

    def test_cut_finds_the_transaction_of_a_statement(self) -> None:
        session = self.connect()
        self.proxy.cut_at_commit(Cut.WITHIN, "INSERT INTO kept")
        session.execute("BEGIN")
        session.execute("SELECT pg_notify('other', '')")
        session.execute("COMMIT")
        self.assertEqual(self.proxy.cuts, 0)
        self.assertRaises(psycopg.OperationalError, self.insert, session, 4, True)

    def test_frozen_proxy_holds_statements_back_until_it_thaws(self) -> None:
        session = self.connect()
        self.proxy.freeze()
        writer = threading.Thread(target=self.insert, args=(session, 5, False))
        writer.start()
        time.sleep(0.2)
        self.assertEqual(self.kept(), [])
        self.proxy.thaw()
        writer.join()
        self.assertEqual(self.kept(), [5])

    def test_refusing_proxy_cuts_all_connections_until_it_accepts(self) -> None:
        session = self.connect()
        self.proxy.refuse()
        self.assertRaises(psycopg.OperationalError, session.execute, "SELECT 1")
        self.assertRaises(psycopg.OperationalError, self.connect)
        self.proxy.accept()
        self.connect().execute("SELECT 1")

    def test_delay_makes_each_answer_later(self) -> None:
        session = self.connect()
        self.proxy.delay(0.05)
        start = time.monotonic()
        session.execute("SELECT 1")
        self.assertGreater(time.monotonic() - start, 0.1)
