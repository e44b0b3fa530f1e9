"""Statements that are sent together: results, errors, and what is prepared."""

from __future__ import annotations

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.storage.postgres.arrays import ByteaArray, Int8Array, TextArray
from durable_streams_tw.storage.postgres.connection import connect
from durable_streams_tw.storage.postgres.pipeline import Pipeline, PreparedStatements
from tests.storage.postgres.store_case import database


class PipelineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = connect(database())
        self.addCleanup(self.connection.close)
        self.prepared = PreparedStatements()

    def pipeline(self) -> Pipeline:
        return Pipeline(self.connection, self.prepared)

    def prepared_there(self) -> int:
        query = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'ds_%'"
        ((count,),) = self.connection.execute(query, prepare=False).fetchall()
        return int(count)

    def test_parameters_and_results(self) -> None:
        pipeline = self.pipeline()
        number = pipeline.add("SELECT %s + %s", (-5, 2**40))
        rows = pipeline.add(
            "SELECT * FROM unnest(%s, %s)", (Int8Array([1, -2]), ByteaArray([b"\0x", b""]))
        )
        texts = pipeline.add(
            "SELECT 0::bigint, %s || array_to_string(%s, ',', '-')", ("ä", TextArray(["b"]))
        )
        nulls = pipeline.add(
            "SELECT count(*) FROM unnest(%s) w (n) WHERE n IS NULL", (Int8Array([None, 3]),)
        )
        pipeline.run()
        self.assertEqual(pipeline.rows(number), [(2**40 - 5,)])
        self.assertEqual(pipeline.rows(rows), [(1, b"\0x"), (-2, b"")])
        self.assertEqual(pipeline.rows(texts), [(0, "äb")])
        self.assertEqual(pipeline.rows(nulls), [(1,)])

    def test_statement_is_prepared_once(self) -> None:
        for _ in range(3):
            pipeline = self.pipeline()
            pipeline.add("SELECT %s::bigint", (1,))
            pipeline.add("SELECT %s::bigint", (2,))
            pipeline.run()
            self.assertEqual(len(pipeline.results), 2)
        self.assertEqual(self.prepared_there(), 1)

    def test_error_ends_the_statements_after_it(self) -> None:
        """The first error is raised, and the connection can be used again."""
        pipeline = self.pipeline()
        pipeline.add("BEGIN")
        pipeline.add("SELECT 1 / %s", (0,))
        pipeline.add("SELECT nothing")
        self.assertRaises(psycopg.errors.DivisionByZero, pipeline.run)
        self.connection.execute("ROLLBACK")
        # The last one was not prepared, so its error is found now.
        again = self.pipeline()
        again.add("SELECT 1")
        again.add("SELECT nothing")
        self.assertRaises(psycopg.errors.UndefinedColumn, again.run)
        self.assertEqual([result.ntuples for result in again.results[:1]], [1])

    def test_results_before_an_error_are_kept(self) -> None:
        """A failed notification does not hide that the transaction was committed."""
        pipeline = self.pipeline()
        pipeline.add("BEGIN")
        commit = pipeline.add("COMMIT")
        pipeline.add("SELECT pg_notify(%s, '')", ("x" * 100,))
        self.assertRaises(psycopg.errors.InvalidParameterValue, pipeline.run)
        self.assertEqual(pipeline.results[commit].command_status, b"COMMIT")

    def test_error_at_the_end(self) -> None:
        """Statements without a transaction of their own may fail when the pipeline ends."""
        self.connection.execute(
            "CREATE TEMP TABLE t (a bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)"
        )
        pipeline = self.pipeline()
        for _ in range(2):
            pipeline.add("INSERT INTO t VALUES (%s)", (1,))
        self.assertRaises(psycopg.errors.UniqueViolation, pipeline.run)
        self.assertEqual(len(pipeline.results), 2)
        self.assertEqual(self.connection.execute("SELECT count(*) FROM t").fetchall(), [(0,)])

    def test_broken_connection(self) -> None:
        with connect(database()) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (self.connection.info.backend_pid,))
        pipeline = self.pipeline()
        pipeline.add("SELECT 1")
        self.assertRaises(psycopg.OperationalError, pipeline.run)
        self.assertTrue(self.connection.broken)

    def test_large_parameters_and_results(self) -> None:
        """Neither side waits for the other while both send more than the socket holds."""
        pipeline = self.pipeline()
        body = bytes(2**20)
        for _ in range(8):
            pipeline.add("SELECT 0::bigint, w.b FROM unnest(%s) w (b)", (ByteaArray([body]),))
        pipeline.run()
        self.assertEqual([pipeline.rows(index) for index in range(8)], 8 * [[(0, body)]])
