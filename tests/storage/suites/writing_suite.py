"""Suite: commands to a store, one at a time and many at once."""

from __future__ import annotations

from durable_streams_tw.protocol import content_types
from durable_streams_tw.protocol.errors import Problem
from durable_streams_tw.protocol.streams.commands import Append, Delete
from durable_streams_tw.protocol.streams.offsets import offset_bytes
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.producers import ProducerClaim, ProducerState
from durable_streams_tw.protocol.streams.state import Lifetime
from durable_streams_tw.storage.api import Outcome
from tests.storage.store_case import JSON, START, StoreCase, post, put


class WritingSuite(StoreCase):
    """Create, append, close and delete; producers and Stream-Seq."""

    # -- create -----------------------------------------------------------------------------

    def test_create(self) -> None:
        """A new stream has the requested configuration and content."""
        lifetime = Lifetime(ttl=60)
        state = self.created(put("a/b", "Text/Plain; x=y", b"hello", lifetime))
        self.assertEqual(
            (state.path, state.content_type, state.tail, state.lifetime, state.closed),
            ("a/b", "Text/Plain; x=y", 5, lifetime, False),
        )
        self.assertEqual((state.created_at, state.touched_at), (START, START))
        self.assertEqual(self.state_of("a/b"), state)
        self.assertEqual(self.content("a/b"), b"hello")

    def test_create_empty(self) -> None:
        """A stream can be created empty."""
        for path, content_type, raw in (("a", None, b""), ("b", JSON, b""), ("c", JSON, b"[]")):
            state = self.created(put(path, content_type, raw))
            self.assertEqual(state.content_type, content_type or content_types.DEFAULT)
            chunk = self.read(path=path)
            self.assertEqual((chunk.start, chunk.data, chunk.at_tail), (0, b"", True))

    def test_create_json(self) -> None:
        """JSON content of a PUT is split into messages."""
        self.created(put("a", JSON, b' [1.0, {"a":[2,3]}] '))
        self.assertEqual(self.messages(), (b"1.0", b'{"a":[2,3]}'))

    def test_create_closed(self) -> None:
        """A stream can be created closed."""
        state = self.created(put(raw=b"all", closed=True))
        self.assertTrue(state.closed)
        self.assertRefused(Problem.STREAM_CLOSED, self.submit(post(b"more")))
        self.assertEqual(self.content(), b"all")

    def test_create_again(self) -> None:
        """A repeated PUT returns the current state; its body is ignored."""
        first = self.created(put(raw=b"one"))
        later = self.appended(post(b"two"))
        for raw in (b"one", b"", b"other"):
            self.assertEqual(self.submit(put(raw=raw)), Created(later, fresh=False))
        self.assertEqual(later.id, first.id)
        self.assertEqual(self.content(), b"onetwo")

    def test_create_another(self) -> None:
        """A PUT with another configuration is a conflict and changes nothing."""
        state = self.created(put())
        for command in (
            put(content_type=JSON),
            put(lifetime=Lifetime(ttl=5)),
            put(closed=True),
        ):
            self.assertRefused(Problem.STREAM_EXISTS, self.submit(command))
        self.assertEqual(self.state_of(), state)

    def test_create_with_invalid_body(self) -> None:
        """A PUT with an invalid body creates nothing; a later valid one succeeds."""
        self.assertRefused(Problem.INVALID_JSON, self.submit(put("a", JSON, b"{")))
        self.assertGone()
        self.created(put("a", JSON, b"1"))

    def test_ids(self) -> None:
        """Ids of streams are unique and increase."""
        ids = [self.created(put(f"s{number}")).id for number in range(5)]
        self.deleted("s4")
        self.restart()
        ids += [self.created(put(f"s{number}")).id for number in range(4, 8)]
        self.assertEqual(sorted(set(ids)), ids)

    def test_names(self) -> None:
        """Each valid name, short or long, is a separate stream."""
        names = ["a", "a/b", "A", "é", "\U0001f600", "a b", "%2F", "x" * 2048, "x" * 2047]
        names += ["é" * 1024, "x" * 2047 + "y", "x" * 480, "x" * 481, "x" * 479 + "é", "p", "s/d"]
        for number, name in enumerate(names):
            self.created(put(name, raw=b"%d" % number))
        self.restart()
        for number, name in enumerate(names):
            self.assertEqual(self.content(name), b"%d" % number)
            self.assertEqual(self.state_of(name).path, name)
        self.deleted(names[7])
        self.assertGone(names[7])
        self.assertEqual(self.content(names[8]), b"8")

    # -- append and close ---------------------------------------------------------------------

    def test_append(self) -> None:
        """Bytes are appended at the tail."""
        created = self.created(put(raw=b"one"))
        self.sleep(1)
        state = self.appended(post(b"two"))
        self.assertEqual((state.id, state.tail, state.touched_at), (created.id, 6, START + 1000))
        self.assertEqual(self.appended(post(b"\0\xff\n")).tail, 9)
        self.assertEqual(self.content(), b"onetwo\0\xff\n")
        self.assertEqual(self.state_of().tail, 9)

    def test_append_sizes(self) -> None:
        """Appends of sizes around the limits of records and batches."""
        self.created(put())
        expected = b""
        for size in (
            1,
            100,
            1899,
            1900,
            1901,
            2030,
            4081,
            16_362,
            16_363,
            16_364,
            40_000,
            1,
            300_000,
            7,
        ):
            raw = bytes([len(expected) % 251]) * size
            expected += raw
            self.assertEqual(self.appended(post(raw)).tail, len(expected))
        self.assertEqual(self.content(), expected)
        self.restart()
        self.assertEqual(self.content(), expected)

    def test_append_refused(self) -> None:
        """A refused append changes nothing."""
        state = self.created(put("a", JSON, b"1"))
        for command, problem in (
            (post(b"x"), Problem.CONTENT_TYPE_MISMATCH),
            (post(b"2", content_type=None), Problem.MALFORMED_FIELD),
            (post(b"{", content_type=JSON), Problem.INVALID_JSON),
            (post(b"[]", content_type=JSON), Problem.INVALID_JSON),
            (post(b"[]", content_type=JSON, closed=True), Problem.INVALID_JSON),
            (post(content_type=JSON), Problem.EMPTY_BODY),
            (post(b"{", content_type=JSON, producer=("p", 0, 0), seq=b"9"), Problem.INVALID_JSON),
            (post(b"2", content_type=JSON, producer=("p", 0, 1), seq=b"9"), Problem.SEQUENCE_GAP),
            (post(b"2", "b", content_type=JSON), Problem.STREAM_NOT_FOUND),
        ):
            self.assertRefused(problem, self.submit(command))
            self.assertEqual(self.state_of(), state)
        self.assertEqual(self.messages(), (b"1",))
        outcome = self.submit(post(b"2", content_type=JSON, producer=("p", 0, 0), seq=b"0"))
        assert isinstance(outcome, Appended)
        self.assertEqual(outcome.producer, ProducerState(0, 0))

    def test_close(self) -> None:
        """A closed stream stays closed, also after a restart; closing again changes nothing."""
        self.created(put(raw=b"one"))
        state = self.appended(post(closed=True))
        self.assertEqual((state.closed, state.tail), (True, 3))
        self.restart()
        self.assertEqual(self.state_of(), state)
        again = self.submit(post(closed=True))
        self.assertEqual(again, Appended(state, duplicate=True))
        refusal = self.assertRefused(Problem.STREAM_CLOSED, self.submit(post(b"x", closed=True)))
        self.assertIn((b"Stream-Next-Offset", offset_bytes(state, 3)), refusal.headers)
        self.assertEqual(self.content(), b"one")

    def test_append_and_close(self) -> None:
        """A stream can be closed with its last append."""
        self.created(put())
        state = self.appended(post(b"last", closed=True))
        self.assertEqual((state.closed, state.tail), (True, 4))
        chunk = self.read()
        self.assertEqual((chunk.data, chunk.state.closed, chunk.at_tail), (b"last", True, True))

    # -- delete ---------------------------------------------------------------------------------

    def test_delete(self) -> None:
        """A deleted stream is gone, also after a restart, and no other stream is affected."""
        self.created(put(raw=b"x" * 50_000))
        self.created(put("b", raw=b"kept"))
        outcome = self.submit(Delete("a"))
        assert isinstance(outcome, Deleted)
        self.assertGone()
        self.restart()
        self.assertGone()
        self.assertEqual(self.content("b"), b"kept")

    def test_delete_and_create(self) -> None:
        """A new stream at the path of a deleted one inherits nothing: no bytes, producers,
        Stream-Seq or closed state.
        """
        first = self.created(put("a", JSON, b"[1,2]"))
        self.appended(post(b"3", content_type=JSON, seq=b"9", producer=("p", 4, 0), closed=True))
        self.deleted()
        second = self.created(put())
        self.assertGreater(second.id, first.id)
        self.assertEqual(self.content(), b"")
        outcome = self.submit(post(b"new", seq=b"1", producer=("p", 0, 0)))
        assert isinstance(outcome, Appended)
        self.assertFalse(outcome.duplicate)
        self.settle(self.store)
        self.restart()
        self.assertEqual(self.content(), b"new")
        self.assertEqual(self.state_of(), outcome.state)

    # -- producers --------------------------------------------------------------------------------

    def test_producer(self) -> None:
        """Each batch is stored once, also when it is sent again after a restart."""
        self.created(put())
        for restart in (False, True):
            base = 3 if restart else 0
            for seq, raw in enumerate((b"a", b"b", b"c"), base):
                outcome = self.submit(post(raw, producer=("p", 0, seq)))
                assert isinstance(outcome, Appended)
                self.assertEqual(outcome.producer, ProducerState(0, seq))
            before = self.state_of()
            if restart:
                self.restart()
            for seq in range(base + 3):
                duplicate = self.submit(post(b"z", producer=("p", 0, seq)))
                expected = Appended(before, ProducerState(0, base + 2), duplicate=True)
                self.assertEqual(duplicate, expected)
        refusal = self.assertRefused(
            Problem.SEQUENCE_GAP, self.submit(post(b"z", producer=("p", 0, 7)))
        )
        self.assertIn((b"Producer-Expected-Seq", b"6"), refusal.headers)
        self.assertEqual(self.content(), b"abcabc")

    def test_producers_side_by_side(self) -> None:
        """Each producer has its own sequence on each stream, whatever its id."""
        names = ["p", "q", "p/1", "é", "x" * 1024, "x" * 1023, "x" * 128, "x" * 129, "\U0001f600"]
        for path in ("a", "b"):
            self.created(put(path))
        for seq in range(2):
            for path in ("a", "b"):
                for name in names:
                    outcome = self.submit(post(b"%d" % seq, path, producer=(name, 0, seq)))
                    assert isinstance(outcome, Appended)
                    self.assertFalse(outcome.duplicate)
            self.restart()
        self.assertEqual(self.content("a"), b"0" * len(names) + b"1" * len(names))
        self.assertRefused(Problem.SEQUENCE_GAP, self.submit(post(b"x", producer=("r", 0, 1))))

    def test_producer_at_once(self) -> None:
        """Batches sent without waiting are processed in order."""
        self.created(put())
        outcomes = self.submit_all(
            *[post(b"%d" % seq, producer=("p", 0, seq)) for seq in range(4)],
            post(b"x", producer=("p", 0, 2)),
            post(b"x", producer=("p", 0, 9)),
            post(b"4", producer=("p", 0, 4)),
            post(b"5", producer=("p", 1, 0)),
            post(b"x", producer=("p", 0, 5)),
            post(b"x", producer=("p", 2, 1)),
            post(b"6", producer=("q", 7, 0)),
        )
        self.assertEqual(
            [self._verdict(outcome) for outcome in outcomes],
            [
                *(["new"] * 4),
                *("duplicate", Problem.SEQUENCE_GAP, "new", "new", Problem.STALE_EPOCH),
                *(Problem.EPOCH_WITHOUT_RESTART, "new"),
            ],
        )
        self.assertEqual(self.content(), b"0123456")
        self.restart()
        self.assertRefused(Problem.STALE_EPOCH, self.submit(post(b"x", producer=("p", 0, 5))))
        self.assertEqual(self._verdict(self.submit(post(b"7", producer=("p", 1, 1)))), "new")

    def test_out_of_order_at_once(self) -> None:
        """A batch sent before its predecessor is a gap; sent again, it is accepted."""
        self.created(put())
        outcomes = self.submit_all(
            *[post(b"%d" % seq, producer=("p", 0, seq)) for seq in (1, 0, 2, 1, 2)]
        )
        self.assertEqual(
            [self._verdict(outcome) for outcome in outcomes],
            [Problem.SEQUENCE_GAP, "new", Problem.SEQUENCE_GAP, "new", "new"],
        )
        self.assertEqual(self.content(), b"012")

    def test_producer_close(self) -> None:
        """A retry of the closing batch is a duplicate, also after a restart; other appends are
        refused.
        """
        self.created(put())
        self.appended(post(b"a", producer=("p", 0, 0)))
        state = self.appended(post(b"b", producer=("p", 0, 1), closed=True))
        self.assertEqual(state.closed_by, ProducerClaim("p", 0, 1))
        for _ in range(2):
            for command in (
                post(b"b", producer=("p", 0, 1), closed=True),
                post(b"other", producer=("p", 0, 1)),
                post(producer=("p", 0, 1), closed=True),
            ):
                expected = Appended(state, ProducerState(0, 1), duplicate=True)
                self.assertEqual(self.submit(command), expected)
            for command in (
                post(b"a", producer=("p", 0, 0)),
                post(b"c", producer=("p", 0, 2)),
                post(b"c", producer=("q", 0, 1)),
            ):
                self.assertRefused(Problem.STREAM_CLOSED, self.submit(command))
            self.restart()
        self.assertEqual(self.content(), b"ab")

    def _verdict(self, outcome: Outcome) -> str | Problem:
        if isinstance(outcome, Appended):
            return "duplicate" if outcome.duplicate else "new"
        problem = getattr(outcome, "problem", None)
        assert isinstance(problem, Problem), outcome
        return problem

    # -- Stream-Seq -----------------------------------------------------------------------------

    def test_stream_seq(self) -> None:
        """Stream-Seq must increase per stream, in one batch, in sequence and after a restart."""
        self.created(put())
        outcomes = self.submit_all(
            *[post(b"x", seq=seq) for seq in (b"09", b"10", b"10", b"2", b"10", b"\xff\0")],
            post(b"x"),
        )
        self.assertEqual(
            [isinstance(outcome, Appended) for outcome in outcomes],
            [True, True, False, True, False, True, True],
        )
        self.restart()
        self.assertEqual(self.state_of().last_seq, b"\xff\0")
        self.assertRefused(Problem.SEQUENCE_REGRESSION, self.submit(post(b"x", seq=b"\xff\0")))
        self.appended(post(b"x", seq=b"\xff\0\0"))

    # -- many at once -----------------------------------------------------------------------------

    def test_lifecycle_at_once(self) -> None:
        """Commands sent together have the same effect as in sequence."""
        outcomes = self.submit_all(
            post(b"x"),
            put(raw=b"1"),
            post(b"2"),
            put(),
            post(b"x", content_type=JSON),
            post(b"3", closed=True),
            post(b"x"),
            Delete("a"),
            post(b"x"),
            Delete("a"),
            put("a", JSON, b"[1]"),
            post(b"[2,3]", content_type=JSON),
            put("b"),
        )
        kinds = [type(outcome).__name__ for outcome in outcomes]
        self.assertEqual(
            kinds,
            [
                *("Refusal", "Created", "Appended", "Created", "Refusal", "Appended", "Refusal"),
                *("Deleted", "Refusal", "Refusal", "Created", "Appended", "Created"),
            ],
        )
        for _ in range(2):
            self.assertEqual(self.messages(), (b"1", b"2", b"3"))
            self.assertEqual(self.content("b"), b"")
            self.settle(self.store)
            self.restart()

    def test_many_appends_at_once(self) -> None:
        """All bytes are stored once, in the order of submission, and each outcome has its exact
        tail.
        """
        for path in ("a", "b", "c"):
            self.created(put(path))
        expected = dict.fromkeys("abc", b"")
        commands: list[Append] = []
        tails: list[int] = []
        for number in range(300):
            path = "abc"[number * number % 3]
            raw = b"%d," % number * (1 + number % 40)
            commands.append(post(raw, path))
            expected[path] += raw
            tails.append(len(expected[path]))
        outcomes = self.submit_all(*commands)
        found = [outcome.state.tail for outcome in outcomes if isinstance(outcome, Appended)]
        self.assertEqual(found, tails)
        for _ in range(2):
            for path, content in expected.items():
                self.assertEqual(self.content(path), content)
            self.restart()

    def test_many_streams(self) -> None:
        """More streams than one step of the sweep or a scan handles."""
        paths = [f"s/{number}" for number in range(400)]
        self.submit_all(*[put(path, raw=path.encode()) for path in paths])
        self.submit_all(*[Delete(path) for path in paths[::2]])
        self.settle(self.store)
        self.restart()
        for path in paths[:20:2]:
            self.assertGone(path)
        for path in paths[1:20:2]:
            self.assertEqual(self.content(path), path.encode())
