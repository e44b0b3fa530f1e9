"""Faults of the database and of connections: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import gc
import threading
from typing import Any

import psycopg
from msgspec.structs import replace
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.limits import MIB
from durable_streams_tw.protocol.streams.bodies import EMPTY
from durable_streams_tw.protocol.streams.commands import Create, Delete, ForkRequest
from durable_streams_tw.protocol.streams.offsets import Offset, format_offset
from durable_streams_tw.protocol.streams.outcomes import Appended
from durable_streams_tw.protocol.streams.state import Lifetime, StreamState
from durable_streams_tw.storage.api import Change
from durable_streams_tw.storage.commands.streams import expire
from durable_streams_tw.storage.limits import MAX_PRODUCERS, SWEEP_RETRY
from durable_streams_tw.storage.postgres import committer
from durable_streams_tw.storage.postgres.connection import connect
from durable_streams_tw.storage.postgres.reader import decode_stream
from durable_streams_tw.storage.postgres.store import PostgresStore
from durable_streams_tw.storage.postgres.transaction import DatabaseTransaction
from tests.postgres.cluster import shared_cluster
from tests.postgres.fault_proxy import Cut, FaultProxy
from tests.storage.postgres.store_case import (
    Node,
    PostgresStoreCase,
    database,
    empty_database,
)
from tests.storage.store_case import post, put
from tests.storage.suites.subscription_suite import subscribe


class FaultCase(PostgresStoreCase, SynchronousTestCase):
    """Node whose connections go through a proxy; `query` does not."""

    timeout = 5.0
    store: PostgresStore

    def make_store(self) -> PostgresStore:
        self.direct = empty_database()
        self.proxy = FaultProxy(shared_cluster().port)
        self.proxy.__enter__()
        self.addCleanup(self.proxy.__exit__, None, None, None)
        name = psycopg.conninfo.conninfo_to_dict(database().url)["dbname"]
        url = shared_cluster().url(str(name), port=self.proxy.port)
        self.settings = replace(self.direct, url=url, timeout=self.timeout)
        return self.open_store()

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with connect(self.direct) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def fail_inserts(self, table: str, body: str, when: str = "BEFORE INSERT") -> None:
        """Let inserts into a table run PL/pgSQL statements."""
        with connect(self.direct) as connection:
            connection.execute(
                f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} "
                "RETURN NEW; END $$".encode(),
                prepare=False,
            )
            kind, deferred = "TRIGGER", ""
            if when.startswith("AFTER"):
                kind, deferred = "CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED"
            connection.execute(
                f"CREATE {kind} fault {when} ON {table} {deferred} "
                "FOR EACH ROW EXECUTE FUNCTION fault()".encode(),
                prepare=False,
            )
        self.addCleanup(self.query, "DROP FUNCTION IF EXISTS fault CASCADE")


class ConnectionTests(FaultCase):
    """Connections that break, and a database that returns in time."""

    def test_cut_at_commit(self) -> None:
        """A batch whose connection breaks at the commit reports its outcome and is done once."""
        self.created(put())
        for moment in Cut:
            self.proxy.cut_at_commit(moment, "INSERT INTO chunk")
            self.appended(post(moment.value.encode()))
        self.assertEqual(self.proxy.cuts, 3)
        self.assertEqual(self.content(), b"beforewithinafter")

    def test_cut_when_a_subscription_is_made(self) -> None:
        """The node's index of subscriptions is that of the database after a cut."""
        self.created(put("events/a"))
        for number, moment in enumerate(Cut):
            self.proxy.cut_at_commit(moment, "INSERT INTO subscription")
            self.submit(subscribe(f"s{number}", wake_stream=None))
        self.appended(post(b"x", "events/a"))
        due = self.query("SELECT count(*) FROM subscription WHERE due IS NOT NULL")
        self.assertEqual(due, [(3,)])

    def test_all_connections_cut(self) -> None:
        """Commands and reads use new connections."""
        self.created(put(raw=b"x"))
        for _ in range(3):
            self.read()
            self.proxy.cut_all()
            self.appended(post(b"y"))
            self.proxy.cut_all()
        self.assertEqual(self.content(), b"xyyy")

    def test_terminated_by_an_administrator(self) -> None:
        """A session that the server ends is replaced."""
        self.created(put())
        self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'durable-streams %%' AND pid <> pg_backend_pid()"
        )
        self.appended(post(b"x"))
        self.assertEqual(self.content(), b"x")

    def test_database_returns_in_time(self) -> None:
        """Commands wait for a database that is unavailable for less than the timeout."""
        self.created(put())
        self.proxy.refuse()
        back = threading.Timer(0.5, self.proxy.accept)
        back.start()
        self.appended(post(b"x"))
        back.join()

    def test_row_of_the_node_removed(self) -> None:
        """A node whose row another node has removed goes on."""
        self.created(put())
        self.query("DELETE FROM node")
        self.appended(post(b"x"))
        self.query("UPDATE node SET batch = batch + 7")
        self.appended(post(b"y"))
        self.assertEqual(self.content(), b"xy")

    def test_close_before_the_sweep(self) -> None:
        """A store that closes while it looks for other nodes does not begin to sweep."""
        node = Node(self, self.settings, MAX_PRODUCERS)
        node.clock.advance(0)
        self.successResultOf(node.store.close())
        self.assertEqual(node.executors[1].batches, [2])

    def test_warning_at_commit(self) -> None:
        """A commit with a warning, as of a cancelled wait for a standby, is verified."""
        self.created(put())
        self.fail_inserts("chunk", "RAISE WARNING 'cancelled';", "AFTER INSERT")
        before = self.proxy.opened
        self.appended(post(b"x"))
        self.assertGreater(self.proxy.opened, before)
        self.assertEqual(self.content(), b"x")

    def test_failover(self) -> None:
        """After a failover, offsets of bytes that the database has lost are refused."""
        self.created(put())
        lost = self.appended(post(b"lost"))
        self.query("UPDATE registry SET history = 'another/00000001'")
        self.query("UPDATE stream SET record = record")
        kept = self.query("SELECT record FROM stream")
        self.appended(post(b"!"))
        self.proxy.cut_all()
        after = self.appended(post(b"new"))
        self.assertEqual(self.query("SELECT count(*) FROM registry WHERE lineage > 0"), [(1,)])
        self.assertTrue(kept)
        assert after.lineage is not None
        self.assertGreater(after.lineage.ids[-1], lost.id)
        self.assertNotEqual(format_offset(after, after.tail), format_offset(lost, after.tail))
        refused = self.result(self.store.read("a", Offset(lost.id, after.tail), 10))
        self.assertRefused(Problem.OFFSET_GONE, refused)


class AwayTests(FaultCase):
    """A database that is unavailable for longer than the timeout."""

    timeout = 0.3

    def finish(self) -> None:
        self.proxy.accept()
        super().finish()

    def test_nothing_was_written(self) -> None:
        """Commands and reads are refused with 503, and accepted once the database is back."""
        self.created(put(raw=b"x"))
        self.proxy.refuse()
        refusal = self.assertRefused(Problem.STORAGE_UNAVAILABLE, self.submit(post(b"y")))
        self.assertIn((b"Retry-After", b"1"), refusal.headers)
        read = self.result(self.store.read("a", 0, 10))
        self.assertRefused(Problem.STORAGE_UNAVAILABLE, read)
        self.assertIsNotNone(self.result(self.store.check_writable()))
        self.proxy.accept()
        self.appended(post(b"z"))
        self.assertIsNone(self.result(self.store.check_writable()))
        self.assertEqual(self.content(), b"xz")

    def test_log(self) -> None:
        """The log says once that the database is unavailable, and once that it is available."""
        self.created(put())
        with capturedLogs() as events:
            self.proxy.refuse()
            for _ in range(3):
                self.submit(post(b"x"))
                self.result(self.store.read("a", 0, 10))
            self.proxy.accept()
            self.appended(post(b"y"))
            self.assertEqual(self.content(), b"y")
        said = [
            formatEvent(event)
            for event in events
            if event["log_level"] in (LogLevel.info, LogLevel.error)
            and event["log_namespace"].startswith("durable_streams_tw.storage.postgres")
        ]
        self.assertEqual([line for line in said if "\n" in line], [])
        starts = [line.split(":")[0] for line in said]
        self.assertEqual(
            [starts.count(line) for line in ("Reads fail", "Reads work again")], [1, 1]
        )
        for line in ("The database is unavailable", "The database is available again"):
            # Each committer may say it.
            self.assertIn(starts.count(line), (1, 2))

    def cut_late_after(self, seconds: float) -> None:
        """Let the timer that bounds waits fire while a command blocks this thread."""
        timer = threading.Timer(seconds, self.store._guard.cut_late)
        timer.start()
        self.addCleanup(timer.join)

    def test_frozen_database(self) -> None:
        """Commands do not wait for a server that does not answer."""
        self.created(put())
        self.state_of()
        self.proxy.freeze()
        self.addCleanup(self.proxy.thaw)
        self.cut_late_after(0.6)
        self.assertRefused(Problem.STORAGE_UNAVAILABLE, self.submit(post(b"x")))
        self.proxy.thaw()
        self.appended(post(b"y"))
        self.assertEqual(self.content(), b"y")

    def test_commit_that_waits(self) -> None:
        """A commit that waits longer than the timeout is unknown; a retry finds out."""
        self.created(put())
        self.fail_inserts("chunk", "PERFORM pg_sleep(3);", "AFTER INSERT")
        self.cut_late_after(0.6)
        command = post(b"x", producer=("p", 0, 0))
        self.assertRefused(Problem.OUTCOME_UNKNOWN, self.submit(command))
        self.query("DROP FUNCTION fault CASCADE")
        again = self.submit(command)
        assert isinstance(again, Appended), again
        self.assertTrue(again.duplicate)
        self.assertEqual(self.content(), b"x")

    def test_commit_that_always_breaks_the_connection(self) -> None:
        """A batch is not repeated for longer than the timeout."""
        self.created(put())
        calls: list[object] = []

        def broken(*arguments: object) -> float:
            calls.append(arguments)
            assert len(calls) < 1000, "the batch is repeated without end"
            raise psycopg.OperationalError("terminated")

        patched = self.patch(self.store._committers[0], "_commit", broken)
        self.assertRefused(Problem.STORAGE_UNAVAILABLE, self.submit(post(b"x")))
        self.assertGreater(len(calls), 1)
        patched.restore()
        self.appended(post(b"y"))
        self.assertEqual(self.content(), b"y")

    def test_unknown_outcome(self) -> None:
        """A commit without a response has an unknown outcome; later reads show the actual one."""
        state = self.created(put())
        self.store.pin(state.id)
        self.state_of()
        told: list[Change] = []
        self.store.add_listener(told.extend)
        self.proxy.cut_at_commit(Cut.WITHIN, "INSERT INTO chunk")
        submitted = self.store.submit(post(b"x", producer=("p", 0, 0)))
        connect_again = self.store._committers[0].session._connect

        def refuse(deadline: float) -> Any:
            self.proxy.refuse()
            return connect_again(deadline)

        patched = self.patch(self.store._committers[0].session, "_connect", refuse)
        self.assertRefused(Problem.OUTCOME_UNKNOWN, self.result(submitted))
        patched.restore()
        self.proxy.accept()
        again = self.submit(post(b"x", producer=("p", 0, 0)))
        assert isinstance(again, Appended), again
        self.assertTrue(again.duplicate)
        self.node.clock.advance(1)
        self.node.drain()
        self.assertEqual([change.state.tail for change in told], [1])
        self.assertEqual(self.content(), b"x")


class ErrorTests(FaultCase):
    """Errors of statements."""

    def test_full_disk(self) -> None:
        """Appends and creates are refused with 507; deletes, closes and duplicates are not."""
        self.submit_all(put(), put("b"))
        self.appended(post(b"x", producer=("p", 0, 0)))
        full = "RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100';"
        self.fail_inserts("chunk", full)
        outcomes = self.submit_all(
            post(b"y"), Delete("b"), post(b"x", producer=("p", 0, 0)), post(closed=True)
        )
        self.assertRefused(Problem.STORAGE_FULL, outcomes[0])
        self.assertRefused(Problem.STORAGE_FULL, self.submit(put("c", raw=b"x")))
        self.assertGone("b")
        self.assertTrue(self.state_of().closed)
        self.assertIsNotNone(self.result(self.store.check_writable()))
        self.query("DROP FUNCTION fault CASCADE")
        self.created(put("c", raw=b"x"))
        self.assertIsNone(self.result(self.store.check_writable()))

    def test_transient_errors(self) -> None:
        """Serialization failures and deadlocks are repeated, not reported."""
        self.created(put())
        self.query("CREATE SEQUENCE fault_count")
        self.addCleanup(self.query, "DROP SEQUENCE fault_count")
        self.fail_inserts(
            "chunk",
            "IF nextval('fault_count') <= 2 THEN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; "
            "ELSIF currval('fault_count') <= 4 THEN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; "
            "END IF;",
        )
        self.appended(post(b"x"))
        self.assertEqual(self.store._committers[0].counters.repeats, 4)
        self.assertEqual(self.content(), b"x")

    def test_command_that_fails(self) -> None:
        """A bug in one command fails that command; the others of its batch are carried out."""
        self.created(put())
        stream_at, calls = DatabaseTransaction.stream_at, []

        def broken(transaction: DatabaseTransaction, path: str) -> StreamState | None:
            calls.append(path)
            if path == "bug":
                raise ZeroDivisionError
            return stream_at(transaction, path)

        self.patch(DatabaseTransaction, "stream_at", broken)
        outcomes = self.submit_all(post(b"x"), post(b"y", "bug"), post(b"z"))
        self.assertRefused(Problem.INTERNAL, outcomes[1])
        self.assertEqual(self.content(), b"xz")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_expiry_that_fails(self) -> None:
        """A stream whose end fails is ended later; a change in the same batch is kept."""
        lifetime = Lifetime(ttl=1)
        self.created(put(lifetime=lifetime))
        self.created(Create("fork", None, lifetime, False, EMPTY, ForkRequest("a", None, 0)))
        source = self.state_of()

        def fail(transaction: DatabaseTransaction, stream_id: int, now: int) -> int | None:
            if stream_id == source.id:
                raise ZeroDivisionError
            return expire(transaction, stream_id, now)

        with_bug = self.patch(committer, "expire", fail)
        self.now += 1000
        self.node.sweep()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        [(record, due)] = self.query("SELECT record, due FROM stream")
        self.assertEqual(decode_stream(record).state.forks, 0)
        self.assertGreater(due, self.now)
        with_bug.restore()
        self.now += round(SWEEP_RETRY * 1000)
        self.node.sweep()
        self.assertEqual(self.query("SELECT FROM stream"), [])

    def test_damaged_record(self) -> None:
        """A damaged stream is refused; others in its batch are not concerned."""
        self.submit_all(put(), put("b"))
        self.query("UPDATE stream SET record = 'x' WHERE path = 'a'")
        outcomes = self.submit_all(post(b"x"), post(b"x", "b"), put())
        for outcome in (outcomes[0], outcomes[2], self.result(self.store.read("a", 0, 1))):
            self.assertRefused(Problem.CORRUPT_RECORD, outcome)
        self.assertEqual(self.content("b"), b"x")

    def test_batch_is_freed(self) -> None:
        """A transaction and its bodies are freed without the garbage collector."""
        self.created(put())
        self.appended(post(b"x", producer=("p", 0, 0)))
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for number in range(1, 4):
            self.appended(post(b"x", producer=("p", 0, number)))
        kept = [each for each in gc.get_objects() if isinstance(each, DatabaseTransaction)]
        self.assertLess(len(kept), 2)

    def test_large_body_is_sent_in_parts(self) -> None:
        """No message to the database is so long that a slow link looks like a frozen node."""
        body = bytes(range(256)) * (4 * MIB // 256)
        self.submit_all(put(raw=body), put("b", raw=b"x"))
        self.appended(post(body))
        self.assertEqual(self.content(), 2 * body)
        self.assertLess(self.proxy.longest, 1.2 * MIB)

    def test_missing_bytes(self) -> None:
        """Bytes that are missing under a stream that has them are an error, not other bytes."""
        self.created(put(raw=b"x" * 100_000))
        self.query("DELETE FROM chunk WHERE position > 0")
        self.store._chunks.clear()
        self.assertRefused(Problem.CORRUPT_RECORD, self.result(self.store.read("a", 0, 10**6)))


class LockTests(FaultCase):
    """Rows that another node has locked."""

    def test_locked_stream(self) -> None:
        """Commands on a locked stream wait; others of their batch do not."""
        self.submit_all(put(), put("b"))
        order: list[str] = []
        with psycopg.connect(self.direct.url) as other:
            other.execute(f'SET search_path = "{self.direct.schema}"'.encode())
            other.execute("SELECT FROM stream WHERE path = 'a' FOR UPDATE")
            submitted = [
                self.store.submit(command).addCallback(lambda _, path: order.append(path), path)
                for path, command in (
                    *(("a", post(b"1")), ("b", post(b"2", "b"))),
                    *(("a", post(b"3")), ("b", post(b"4", "b"))),
                )
            ]
            self.node.executors[0].turn()
            self.assertEqual(order, ["b", "b"])
            submitted.append(self.store.submit(post(b"5")).addCallback(lambda _: order.append("a")))
            self.node.executors[0].turn()
            release = threading.Timer(0.3, other.commit)
            release.start()
            for deferred in submitted:
                self.result(deferred)
            release.join()
        self.assertEqual(order, ["b", "b", "a", "a", "a"])
        self.assertEqual(self.content(), b"135")
        self.assertEqual(self.store._committers[0].counters.deferred, 2)
        self.assertEqual(self.store._blocked_paths, {})
