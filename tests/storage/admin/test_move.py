"""A store that is moved to PostgreSQL and back is the same, also after interruptions."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any
from unittest import mock

import psycopg
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.cli.commands import commands
from durable_streams_tw.protocol import json_mode
from durable_streams_tw.storage.admin import move
from durable_streams_tw.storage.admin.database import check_database, find_flaws
from durable_streams_tw.storage.admin.fsck.findings import Flaw
from durable_streams_tw.storage.admin.inspect import Inspection
from durable_streams_tw.storage.admin.move import (
    divided,
    joined,
    move_to_database,
    move_to_directory,
)
from durable_streams_tw.storage.admin.verify import ignore_progress
from durable_streams_tw.storage.engine import codec
from durable_streams_tw.storage.errors import StoreUnusable
from durable_streams_tw.storage.files import DATA_FILE
from durable_streams_tw.storage.postgres.connection import DatabaseSettings
from durable_streams_tw.storage.postgres.store import PostgresStore
from durable_streams_tw.subscriptions.keyring import KEYS_FILE, Keyring
from tests.postgres.cluster import shared_cluster
from tests.storage.command_builders import JSON, append, create, delete, fork
from tests.storage.durable.store_case import DurableStoreCase
from tests.storage.fsck_assertions import assert_sound_directory
from tests.storage.shared.inline_executor import InlineExecutor
from tests.storage.suites.subscription_suite import subscribe

NOW = 1_800_000_000_000


class RowTests(SynchronousTestCase):
    """Joining and dividing of rows."""

    def assertSame(self, before: list[move.Row], after: list[move.Row], size: int) -> None:
        """Assert that rows have the same bytes, without gaps, in rows of at most a size."""
        self.assertEqual(b"".join(row[2] for row in before), b"".join(row[2] for row in after))
        position = before[0][0]
        for start, _, data in after:
            self.assertEqual(start, position)
            self.assertLessEqual(len(data), size)
            position += len(data)

    @given(st.lists(st.binary(min_size=1, max_size=30), min_size=1), st.integers(8, 64))
    def test_bytes(self, pieces: list[bytes], size: int) -> None:
        rows: list[move.Row] = []
        for piece in pieces:
            rows.append((sum(len(row[2]) for row in rows) + 100, 0, piece))
        long = list(joined(rows, 2 * size))
        self.assertSame(rows, list(divided(long, size, False)), size)

    @given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(16, 48))
    def test_messages(self, lengths: list[int], size: int) -> None:
        """Rows have whole messages, or a part of one; joining and dividing keeps that."""
        messages = [json.dumps("x" * length).encode() for length in lengths]
        stored = json_mode.join(tuple(messages))
        small = list(divided([(0, 0, stored)], size, True))
        self.assertSame([(0, 0, stored)], small, size)
        self.check(small, messages)
        large = list(joined(small, 3 * size))
        self.assertSame(small, large, 3 * size)
        self.check(large, messages)
        again = list(divided(large, size, True))
        self.assertSame(small, again, size)
        self.check(again, messages)

    def check(self, rows: list[move.Row], messages: list[bytes]) -> None:
        """Assert that the rows without flags hold whole messages, and all together all."""
        found: list[bytes] = []
        partial = b""
        for _, flags, data in rows:
            self.assertEqual(bool(partial), bool(flags & codec.STARTS_MID_MESSAGE))
            if not flags:
                found += json_mode.messages(data)
                continue
            partial += data
            if not flags & codec.ENDS_MID_MESSAGE:
                found += json_mode.messages(partial)
                partial = b""
        self.assertEqual(found, messages)


class Interruption:
    """Progress of a move that is interrupted after a number of groups, 0 for never."""

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.steps = 0

    def __call__(self, what: str, done: int, of: int) -> None:
        if what == "moving":
            self.steps += 1
            if self.steps == self.stop:
                raise KeyboardInterrupt


class MoveTests(DurableStoreCase, SynchronousTestCase):
    """A store with all kinds of records."""

    def setUp(self) -> None:
        super().setUp()
        cluster = shared_cluster()
        self.url = cluster.url(cluster.create_database())
        self.settings = DatabaseSettings(self.url, unsafe=True, node="move")
        big = json.dumps("y" * 50_000).encode()
        for command in (
            create("plain", b"x" * 100_000),
            create("json", content_type=JSON),
            create("short-lived", b"x", ttl=60),
            create("gone", b"x" * 50_000),
            create("held", b"held bytes"),
            create("ü/" + "long" * 200),
        ):
            self.created(command)
        for number in range(200):
            self.appended(
                append(
                    "json", b"[%d, %s]" % (number, big if number == 7 else b"1"), content_type=JSON
                )
            )
        for number in range(3):
            self.appended(append("plain", b"%d" % number, producer=("p", 1, number)))
        self.created(fork("forked", "held", 4, b" and more"))
        self.submit_all(delete("held"), delete("gone"))
        self.submit_all(
            subscribe("s", "events/*", wake_stream=None),
            subscribe("explicit", None, wake_stream="wakes", streams=("plain",)),
            create("events/1", b"x"),
            append("plain", b"wakes"),
        )
        self.result(self.store.close())
        self.keys = Keyring(self.directory, lambda: NOW / 1000)
        self.keys.open()
        self.copy = os.path.join(os.path.dirname(self.directory), "copy")

    def there(self, progress: Any = ignore_progress) -> move.Moved:
        return move_to_database(self.directory, self.settings, KEYS_FILE, NOW, progress)

    def back(self, progress: Any = ignore_progress) -> move.Moved:
        return move_to_directory(self.settings, self.copy, KEYS_FILE, NOW, progress)

    def contents(self, directory: str) -> dict[bytes, bytes]:
        """Return all pairs of a store that do not depend on where its bytes are divided."""
        with Inspection(directory) as store, store.snapshot() as view:
            side = move._DirectorySide(view)
            found = {b"%d" % each.state.id: side.digest(each) for each in side.streams(0)}
            for prefix in (b"p", b"P", b"u", b"e", b"k", b"x"):
                for key, value in view.scan(prefix, bytes((prefix[0] + 1,))):
                    found[bytes(key)] = bytes(value)
        return found

    def test_there_and_back(self) -> None:
        """Streams, producers, forks, subscriptions and keys are the same afterwards."""
        moved = self.there()
        self.assertEqual(moved, self.back())
        self.assertGreater(moved.streams, 6)
        self.assertEqual(moved.subscriptions, 2)
        self.assertEqual(self.contents(self.directory), self.contents(self.copy))
        assert_sound_directory(self, self.copy)
        again = Keyring(self.copy, lambda: NOW / 1000)
        again.open()
        self.assertEqual((again.secret, again.kid), (self.keys.secret, self.keys.kid))

    def test_copy_is_usable(self) -> None:
        """A server on the copy accepts the next sequence number, and no earlier one."""
        self.there()
        self.back()
        shutil.rmtree(self.directory)
        os.rename(self.copy, self.directory)
        self.store = self.open_store()
        outcome = self.submit(append("plain", b"2", producer=("p", 1, 2)))
        self.assertTrue(getattr(outcome, "duplicate", False), outcome)
        self.appended(append("plain", b"3", producer=("p", 1, 3)))
        self.assertEqual(self.content("plain"), b"x" * 100_000 + b"012wakes3")
        self.assertEqual(len(self.messages("json")), 400)
        self.assertEqual(self.content("forked"), b"held and more")

    def test_interrupted_moves_continue(self) -> None:
        """A move that fails after any group goes on where it stopped."""
        with mock.patch.object(move, "_GROUP", 1):
            for run in (self.there, self.back):
                for stop in (1, 3):
                    progress = Interruption(stop)
                    self.assertRaises(KeyboardInterrupt, run, progress)
                progress = Interruption(0)
                moved = run(progress)
                self.assertEqual(progress.steps, moved.streams - 4)
        self.assertEqual(self.contents(self.directory), self.contents(self.copy))

    def check_command(self, *arguments: str) -> Any:
        result = CliRunner().invoke(commands, [*arguments, "--database", self.url, "--json"])
        return json.loads(result.stdout)

    def test_moved_store_passes_the_check(self) -> None:
        """`check` and `stats` read a database."""
        moved = self.there()
        self.assertEqual(list(check_database(self.settings)), [])
        self.assertEqual(self.check_command("check")["findings"], [])
        found = self.check_command("stats")
        self.assertEqual(found["streams"], moved.streams)
        self.assertEqual((found["forks"], found["subscriptions"], found["producers"]), (1, 2, 1))
        self.assertGreater(found["disk"], found["size"])

    def test_damage_is_found(self) -> None:
        """Each kind of damage to rows is a finding of its kind."""
        self.there()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET search_path = durable_streams")
            for statement, flaw in (
                ("UPDATE stream SET path = 'other' WHERE path = 'plain'", Flaw.PATH),
                ("UPDATE chunk SET position = position + 1 WHERE position > 0", Flaw.DATA),
                ("DELETE FROM chunk WHERE length(data) < 20", Flaw.DATA),
                ("UPDATE stream SET due = NULL", Flaw.DEADLINE),
                ("UPDATE stream SET source = NULL", Flaw.FORK),
                ("DELETE FROM stream WHERE path = 'held'", Flaw.FORK),
                ("DELETE FROM stream WHERE path = 'plain'", Flaw.ORPHAN),
                ("DELETE FROM subscription", Flaw.SUBSCRIPTION),
                ("UPDATE stream SET record = 'nonsense'", Flaw.CORRUPT_RECORD),
            ):
                connection.execute("BEGIN")
                connection.execute(statement.encode())
                found = {finding.flaw for finding in find_flaws(connection)}
                connection.execute("ROLLBACK")
                self.assertIn(flaw, found, statement)

    def test_occupied_schema_is_refused(self) -> None:
        self.there()
        self.assertIn("already has streams", str(self.assertRaises(StoreUnusable, self.there)))
        self.back()
        self.assertIn("already has a store", str(self.assertRaises(StoreUnusable, self.back)))

    def test_store_in_use_is_refused(self) -> None:
        store = self.open_store()
        self.assertIn("stop the server", str(self.assertRaises(StoreUnusable, self.there)))
        self.result(store.close())
        name = "durable-streams one"
        with psycopg.connect(self.url, application_name=name):
            self.assertIn("stop them", str(self.assertRaises(StoreUnusable, self.there)))

    def test_part_of_a_store_is_refused(self) -> None:
        """An interrupted move refuses another store, a node and a move back."""
        self.assertRaises(KeyboardInterrupt, self.there, Interruption(1))
        self.assertIn("complete that move", str(self.assertRaises(StoreUnusable, self.back)))
        node = PostgresStore(self.settings, Clock(), *[InlineExecutor() for _ in range(3)])
        self.assertIn("only a part", str(self.assertRaises(StoreUnusable, node.open)))
        other = os.path.join(os.path.dirname(self.directory), "other")
        shutil.move(self.directory, other)
        os.mkdir(self.directory)
        self.result(self.open_store().close())
        self.assertIn("another store", str(self.assertRaises(StoreUnusable, self.there)))

    def test_copy_that_differs_is_refused(self) -> None:
        def damage(what: str, done: int, of: int) -> None:
            if what == "moving":
                with psycopg.connect(self.url) as connection:
                    connection.execute(
                        "UPDATE durable_streams.chunk SET data = set_byte(data, 0, 1) "
                        "WHERE position = 0 AND length(data) > 40000"
                    )

        self.assertIn("differs", str(self.assertRaises(StoreUnusable, self.there, damage)))

    def test_command(self) -> None:
        """The command moves there and back, and reports what it moved."""
        for arguments in ((self.directory, self.url), (self.url, self.copy)):
            result = CliRunner().invoke(commands, ["move", *arguments, "--json"])
            self.assertEqual(result.exit_code, 0, result.output)
            self.assertGreater(json.loads(result.stdout)["streams"], 6)
        self.assertTrue(os.path.exists(os.path.join(self.copy, DATA_FILE)))
        for arguments in (("a", "b"), (self.url, self.url)):
            result = CliRunner().invoke(commands, ["move", *arguments])
            self.assertEqual(result.exit_code, 2)
