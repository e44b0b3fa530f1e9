"""Tests of `durable_streams_tw.protocol.streams.transitions`. Forks: test_forks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from durable_streams_tw.protocol import headers
from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.limits import MAX_POSITION
from durable_streams_tw.protocol.streams import bodies, transitions
from durable_streams_tw.protocol.streams.bodies import Body
from durable_streams_tw.protocol.streams.commands import Append, Create
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.producers import ProducerClaim, ProducerState
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime, StreamState
from tests.protocol.refusal_case import RefusalTestCase

NOW = 9000
OPEN = StreamState(7, "a", "text/plain", 12, created_at=1000, touched_at=5000)
CLOSED = replace(OPEN, closed=True)
HELLO = Body(b"hello")
BROKEN = bodies.appended("application/json", b"{")

CLOSED_AT_12 = (
    (headers.H_CLOSED, b"true"),
    (headers.H_NEXT_OFFSET, format_offset(OPEN, 12).encode()),
)


def put(
    content_type: str | None = "text/plain",
    lifetime: Lifetime = NO_EXPIRY,
    closed: bool = False,
    body: Body = bodies.EMPTY,
) -> Create:
    """Return a PUT of the stream ``a``."""
    return Create("a", content_type, lifetime, closed, body)


def post(
    body: Body | None = HELLO,
    content_type: str | None = "text/plain",
    closed: bool = False,
    seq: bytes | None = None,
    producer: tuple[str, int, int] | None = None,
) -> Append:
    """Return a POST to the stream ``a``."""
    claim = None if producer is None else ProducerClaim(*producer)
    return Append("a", content_type, body, closed, seq, claim)


class AbsentTests(RefusalTestCase):
    """Paths without a usable stream."""

    def test_usable(self) -> None:
        """An open or closed stream that has not expired is usable."""
        mortal = replace(OPEN, lifetime=Lifetime(ttl=4))
        for state in (OPEN, CLOSED, mortal):
            self.assertIsNone(transitions.check_usable(state, expired=False))

    def test_refused(self) -> None:
        """A missing or expired stream is 404; one that is kept for its forks is 410, also after its
        expiry.
        """
        mortal = replace(OPEN, lifetime=Lifetime(ttl=4))
        held = replace(mortal, forks=1, deleted=True)
        for state, expired, problem in (
            (None, False, Problem.STREAM_NOT_FOUND),
            (mortal, True, Problem.STREAM_NOT_FOUND),
            (held, True, Problem.STREAM_GONE),
            (replace(held, lifetime=NO_EXPIRY), False, Problem.STREAM_GONE),
        ):
            self.assertRefusal(problem, transitions.check_usable(state, expired))


class CreateTests(RefusalTestCase):
    """PUT at a free path."""

    def test_created(self) -> None:
        """The new stream has the requested configuration and the length of its body."""
        command = put("Text/Plain; a=b", Lifetime(ttl=5), True, HELLO)
        self.assertEqual(
            transitions.create(command, NOW),
            Created(
                StreamState(
                    *(0, "a", "Text/Plain; a=b", 5, NOW, NOW),
                    lifetime=Lifetime(ttl=5),
                    closed=True,
                ),
                fresh=True,
                body=HELLO,
            ),
        )

    def test_defaults(self) -> None:
        """Defaults: application/octet-stream, no lifetime, open, empty."""
        outcome = transitions.create(put(None), NOW)
        assert isinstance(outcome, Created)
        self.assertEqual(
            outcome.state, StreamState(0, "a", "application/octet-stream", 0, NOW, NOW)
        )

    def test_invalid_body(self) -> None:
        """A body that cannot be stored creates no stream."""
        outcome = transitions.create(put("application/json", body=BROKEN), NOW)
        self.assertRefusal(Problem.INVALID_JSON, outcome)


class RecreateTests(RefusalTestCase):
    """PUT at the path of a stream (§5.1)."""

    def test_same_configuration(self) -> None:
        """The same configuration returns the stream; the body is ignored."""
        expiry = Lifetime(expires_at=5, expires_at_text="1970-01-01T00:00:00.005Z")
        same_moment = Lifetime(expires_at=5, expires_at_text="1970-01-01T01:00:00.005+01:00")
        for existing, command in (
            (OPEN, put()),
            (OPEN, put("TEXT/PLAIN; charset=utf-8")),
            (OPEN, put(body=HELLO)),
            (OPEN, put(body=BROKEN)),
            (CLOSED, put(closed=True)),
            (replace(OPEN, content_type="application/octet-stream"), put(None)),
            (replace(OPEN, lifetime=Lifetime(ttl=5)), put(lifetime=Lifetime(ttl=5))),
            (replace(OPEN, lifetime=expiry), put(lifetime=same_moment)),
            (replace(OPEN, forks=2), put()),
        ):
            self.assertEqual(
                transitions.repeat_create(existing, command), Created(existing, fresh=False)
            )

    def test_other_configuration(self) -> None:
        """Any other configuration is a conflict."""
        for existing, command in (
            (OPEN, put("text/html")),
            (OPEN, put(None)),
            (OPEN, put(closed=True)),
            (CLOSED, put()),
            (OPEN, put(lifetime=Lifetime(ttl=5))),
            (OPEN, put(lifetime=Lifetime(expires_at=5))),
            (replace(OPEN, lifetime=Lifetime(ttl=5)), put()),
            (replace(OPEN, lifetime=Lifetime(ttl=5)), put(lifetime=Lifetime(ttl=6))),
            (replace(OPEN, lifetime=Lifetime(expires_at=5)), put(lifetime=Lifetime(expires_at=6))),
        ):
            self.assertRefusal(Problem.STREAM_EXISTS, transitions.repeat_create(existing, command))

    def test_kept_for_forks(self) -> None:
        """The path of a deleted stream that its forks need is not free."""
        held = replace(OPEN, forks=1, deleted=True)
        self.assertRefusal(Problem.PATH_HELD, transitions.repeat_create(held, put()))


class AppendTests(RefusalTestCase):
    """POST to an open stream."""

    def test_bytes(self) -> None:
        """An append moves the tail and is an access; nothing else changes."""
        self.assertEqual(
            transitions.append(OPEN, None, post(), NOW),
            Appended(replace(OPEN, tail=17, touched_at=NOW), grew=True),
        )

    def test_close(self) -> None:
        """A stream is closed with a last append or without; then the content type is
        not checked.
        """
        closed = replace(CLOSED, touched_at=NOW)
        self.assertEqual(
            transitions.append(OPEN, None, post(closed=True), NOW),
            Appended(replace(closed, tail=17), grew=True),
        )
        for content_type in (None, "text/plain", "application/json"):
            self.assertEqual(
                transitions.append(OPEN, None, post(None, content_type, closed=True), NOW),
                Appended(closed),
            )

    def test_content_type(self) -> None:
        """The content type must be the stream's, except for case and parameters."""
        for content_type in ("text/plain", "TEXT/PLAIN", "text/plain; charset=utf-8"):
            self.assertIsInstance(
                transitions.append(OPEN, None, post(content_type=content_type), NOW), Appended
            )
        for content_type in ("text/html", "application/json", "application/octet-stream"):
            outcome = transitions.append(OPEN, None, post(content_type=content_type), NOW)
            self.assertRefusal(Problem.CONTENT_TYPE_MISMATCH, outcome)
        outcome = transitions.append(OPEN, None, post(content_type=None), NOW)
        self.assertRefusal(Problem.MALFORMED_FIELD, outcome)

    def test_empty(self) -> None:
        """An empty body is refused unless the request closes the stream."""
        state = ProducerState(0, 3)
        for command in (
            post(None),
            post(None, None),
            post(None, producer=("p", 0, 3)),
            post(None, producer=("p", 0, 4)),
            post(None, producer=("p", 0, 9)),
            post(None, seq=b"1"),
        ):
            self.assertRefusal(Problem.EMPTY_BODY, transitions.append(OPEN, state, command, NOW))

    def test_stream_seq(self) -> None:
        """Stream-Seq must increase, compared byte by byte (§5.2)."""
        for last, seq, fine in (
            (None, b"0", True),
            (b"001", b"002", True),
            (b"002", b"001", False),
            (b"002", b"002", False),
            (b"2", b"10", False),
            (b"09", b"10", True),
            (b"a", b"B", False),
            (b"B", b"a", True),
            (b"a", b"aa", True),
            (b"\x7f", b"\xc3\xa9", True),
            (b"\xff", b"z", False),
        ):
            outcome = transitions.append(replace(OPEN, last_seq=last), None, post(seq=seq), NOW)
            if fine:
                assert isinstance(outcome, Appended)
                self.assertEqual(outcome.state.last_seq, seq)
            else:
                self.assertRefusal(Problem.SEQUENCE_REGRESSION, outcome)

    def test_stream_seq_is_kept(self) -> None:
        """An append without Stream-Seq keeps the last one; a closing append stores its own."""
        known = replace(OPEN, last_seq=b"5")
        for command, last in (
            (post(), b"5"),
            (post(None, closed=True), b"5"),
            (post(None, closed=True, seq=b"6"), b"6"),
        ):
            outcome = transitions.append(known, None, command, NOW)
            assert isinstance(outcome, Appended)
            self.assertEqual(outcome.state.last_seq, last)

    def test_producer(self) -> None:
        """A new batch changes stream and producer together; a duplicate changes nothing."""
        known = ProducerState(0, 3)
        self.assertEqual(
            transitions.append(OPEN, known, post(producer=("p", 0, 4)), NOW),
            Appended(replace(OPEN, tail=17, touched_at=NOW), ProducerState(0, 4), grew=True),
        )
        stream = replace(OPEN, last_seq=b"5")
        for duplicate in (
            post(producer=("p", 0, 3)),
            post(producer=("p", 0, 0)),
            post(Body(b"other"), producer=("p", 0, 3)),
            post(producer=("p", 0, 3), seq=b"5"),
            post(producer=("p", 0, 3), closed=True),
            post(None, producer=("p", 0, 3), closed=True),
            post(BROKEN, producer=("p", 0, 3)),
        ):
            self.assertEqual(
                transitions.append(stream, known, duplicate, NOW),
                Appended(stream, known, duplicate=True),
            )

    def test_a_producers_close(self) -> None:
        """The closing batch is stored with the stream."""
        claim = ProducerClaim("p", 0, 4)
        closed = replace(CLOSED, touched_at=NOW, closed_by=claim)
        self.assertEqual(
            transitions.append(
                OPEN, ProducerState(0, 3), post(None, producer=("p", 0, 4), closed=True), NOW
            ),
            Appended(closed, ProducerState(0, 4)),
        )

    def test_invalid_body(self) -> None:
        """A body that cannot be stored changes neither stream nor producer, and does not close."""
        json = replace(OPEN, content_type="application/json")
        for body in (BROKEN, bodies.appended("application/json", b"[]")):
            for closed in (False, True):
                outcome = transitions.append(
                    *(json, None, post(body, "application/json", closed, producer=("p", 0, 0)), NOW)
                )
                self.assertRefusal(Problem.INVALID_JSON, outcome)

    def test_the_largest_stream(self) -> None:
        """An append beyond the largest position is refused."""
        full = replace(OPEN, tail=MAX_POSITION - 5)
        outcome = transitions.append(full, None, post(), NOW)
        assert isinstance(outcome, Appended)
        self.assertEqual(outcome.state.tail, MAX_POSITION)
        self.assertRefusal(
            Problem.STORAGE_FULL, transitions.append(outcome.state, None, post(), NOW)
        )


class ClosedTests(RefusalTestCase):
    """POST to a closed stream (§5.2, §5.2.1)."""

    def test_close_again(self) -> None:
        """Closing a closed stream succeeds."""
        for content_type in (None, "text/plain", "application/json"):
            self.assertEqual(
                transitions.append(CLOSED, None, post(None, content_type, closed=True), NOW),
                Appended(CLOSED, duplicate=True),
            )

    def test_refused(self) -> None:
        """Appends that do not repeat the close are refused with the final offset."""
        state = ProducerState(0, 3)
        by_p = replace(CLOSED, closed_by=ProducerClaim("p", 0, 3))
        for stream, command in (
            (CLOSED, post()),
            (CLOSED, post(closed=True)),
            (CLOSED, post(None)),
            (CLOSED, post(content_type="application/json")),
            (CLOSED, post(content_type=None)),
            (CLOSED, post(BROKEN)),
            (CLOSED, post(seq=b"0")),
            (CLOSED, post(producer=("p", 0, 4))),
            (CLOSED, post(producer=("p", 0, 3))),
            (CLOSED, post(None, closed=True, producer=("p", 0, 4))),
            (by_p, post(producer=("p", 0, 2))),
            (by_p, post(producer=("p", 0, 4))),
            (by_p, post(producer=("p", 0, 9))),
            (by_p, post(producer=("p", 1, 0))),
            (by_p, post(producer=("p", 1, 9))),
            (by_p, post(producer=("q", 0, 3))),
            (by_p, post(None, closed=True, producer=("p", 0, 4))),
            (by_p, post(None, closed=True, producer=("q", 0, 0))),
        ):
            outcome = transitions.append(stream, state, command, NOW)
            refusal = self.assertRefusal(Problem.STREAM_CLOSED, outcome)
            self.assertEqual(refusal.headers, CLOSED_AT_12)

    def test_the_batch_that_closed(self) -> None:
        """A retry of the closing batch succeeds, whatever its body."""
        state = ProducerState(0, 3)
        by_p = replace(CLOSED, closed_by=ProducerClaim("p", 0, 3))
        for command in (
            post(producer=("p", 0, 3), closed=True),
            post(producer=("p", 0, 3)),
            post(None, producer=("p", 0, 3), closed=True),
            post(None, producer=("p", 0, 3)),
            post(Body(b"other"), "text/html", producer=("p", 0, 3)),
            post(BROKEN, producer=("p", 0, 3), closed=True),
        ):
            self.assertEqual(
                transitions.append(by_p, state, command, NOW), Appended(by_p, state, duplicate=True)
            )

    def test_without_a_producer(self) -> None:
        """A client may close without a producer after a producer has closed."""
        by_p = replace(CLOSED, closed_by=ProducerClaim("p", 0, 3))
        self.assertEqual(
            transitions.append(by_p, None, post(None, closed=True), NOW),
            Appended(by_p, duplicate=True),
        )
        self.assertRefusal(Problem.STREAM_CLOSED, transitions.append(by_p, None, post(), NOW))

    def test_a_fenced_producer(self) -> None:
        """A fenced producer is refused as fenced, not as closed."""
        outcome = transitions.append(CLOSED, ProducerState(2, 3), post(producer=("p", 1, 3)), NOW)
        self.assertRefusal(Problem.STALE_EPOCH, outcome)


class PrecedenceTests(RefusalTestCase):
    """Precedence of faults."""

    def test_order(self) -> None:
        """A request with several faults is refused for them in a fixed order."""
        stream = replace(CLOSED, last_seq=b"5", content_type="application/json")
        state = ProducerState(2, 3)
        command = post(BROKEN, "text/plain", seq=b"5", producer=("p", 1, 9))
        mended = replace(command, producer=ProducerClaim("p", 2, 9))
        opened = replace(stream, closed=False)
        typed = replace(mended, content_type="application/json")
        next_batch = replace(typed, producer=ProducerClaim("p", 2, 4))
        increasing = replace(next_batch, stream_seq=b"6")
        whole = replace(increasing, body=Body(b"1,"))
        for at, asked, problem in (
            (stream, command, Problem.STALE_EPOCH),
            (stream, mended, Problem.STREAM_CLOSED),
            (opened, replace(mended, body=None), Problem.EMPTY_BODY),
            (opened, mended, Problem.CONTENT_TYPE_MISMATCH),
            (opened, typed, Problem.SEQUENCE_GAP),
            (opened, next_batch, Problem.SEQUENCE_REGRESSION),
            (opened, increasing, Problem.INVALID_JSON),
        ):
            self.assertRefusal(problem, transitions.append(at, state, asked, NOW))
        self.assertIsInstance(transitions.append(opened, state, whole, NOW), Appended)


SMALL = st.integers(0, 3)
CLAIMS = st.builds(ProducerClaim, st.sampled_from("pq"), SMALL, SMALL)
CONTENT_TYPES = st.sampled_from(("text/plain", "application/json", "TEXT/plain;x=y"))
SEQS = st.none() | st.sampled_from((b"", b"0", b"1", b"10", b"2"))
STATES = st.builds(
    StreamState,
    *(st.just(7), st.just("a"), CONTENT_TYPES, st.integers(0, 50) | st.just(MAX_POSITION - 3)),
    *(st.just(1), st.integers(1, NOW), st.just(NO_EXPIRY), st.booleans()),
    closed_by=st.none() | CLAIMS,
    last_seq=SEQS,
)
APPENDS = st.builds(
    Append,
    *(st.just("a"), st.none() | CONTENT_TYPES, st.sampled_from((None, HELLO, Body(b"1,"), BROKEN))),
    *(st.booleans(), SEQS, st.none() | CLAIMS),
)


class AnyTests(RefusalTestCase):
    """Random commands in random states lead to valid states or refusals."""

    @given(STATES, st.none() | st.builds(ProducerState, SMALL, SMALL), APPENDS)
    def test_append(
        self, state: StreamState, producer: ProducerState | None, command: Append
    ) -> None:
        """An append moves the tail by its body or not at all.

        A closed stream stays closed, Stream-Seq and producers only increase, and a refused append
        changes nothing.
        """
        outcome = transitions.append(state, producer, command, NOW)
        if isinstance(outcome, Refusal):
            self.assertTrue(400 <= outcome.problem.status < 500 or outcome.problem.status == 507)
            return
        after = outcome.state
        if outcome.duplicate:
            self.assertEqual(after, state)
            self.assertFalse(outcome.grew)
            return
        self.assertFalse(state.closed)
        size = 0 if command.body is None else len(command.body.data)
        self.assertEqual(after.tail, state.tail + size)
        self.assertLessEqual(after.tail, MAX_POSITION)
        self.assertEqual(outcome.grew, size > 0)
        self.assertEqual(after.closed, command.closed)
        self.assertTrue(size or command.closed)
        self.assertEqual(after.closed_by, command.producer if command.closed else None)
        if command.stream_seq is None:
            self.assertEqual(after.last_seq, state.last_seq)
        else:
            self.assertEqual(after.last_seq, command.stream_seq)
            self.assertTrue(state.last_seq is None or command.stream_seq > state.last_seq)
        if command.producer is None:
            self.assertIsNone(outcome.producer)
        else:
            told = (command.producer.epoch, command.producer.seq)
            assert outcome.producer is not None
            self.assertEqual((outcome.producer.epoch, outcome.producer.last_seq), told)
            if producer is not None:
                self.assertGreater(told, (producer.epoch, producer.last_seq))
        same = replace(
            after,
            tail=state.tail,
            touched_at=state.touched_at,
            closed=state.closed,
            closed_by=state.closed_by,
            last_seq=state.last_seq,
        )
        self.assertEqual(same, state)

    @given(STATES, st.lists(APPENDS, max_size=12))
    def test_any_history(self, state: StreamState, commands: list[Append]) -> None:
        """Over any history the tail never moves back, no bytes follow the close, and no accepted
        batch is appended twice.
        """
        producers: dict[str, ProducerState] = {}
        accepted: set[ProducerClaim] = set()
        for command in commands:
            claim = command.producer
            known = None if claim is None else producers.get(claim.id)
            outcome = transitions.append(state, known, command, NOW)
            if isinstance(outcome, Refusal):
                continue
            self.assertGreaterEqual(outcome.state.tail, state.tail)
            self.assertFalse(state.closed and not outcome.duplicate)
            if claim is not None and outcome.producer is not None and not outcome.duplicate:
                self.assertNotIn(claim, accepted)
                accepted.add(claim)
                producers[claim.id] = outcome.producer
            state = outcome.state

    @given(
        STATES,
        st.builds(
            put,
            st.none() | CONTENT_TYPES,
            st.just(NO_EXPIRY) | st.just(Lifetime(ttl=1)),
            st.booleans(),
        ),
    )
    def test_repeat_create(self, state: StreamState, command: Create) -> None:
        """A PUT for an existing stream does not change it."""
        outcome = transitions.repeat_create(state, command)
        if isinstance(outcome, Created):
            self.assertEqual(outcome, Created(state, fresh=False))
        else:
            self.assertEqual(outcome.problem, Problem.STREAM_EXISTS)

    @given(st.builds(put, st.none() | CONTENT_TYPES, closed=st.booleans(), body=st.just(HELLO)))
    def test_create_twice(self, command: Create) -> None:
        """A repeated PUT finds the stream that the first one created."""
        outcome = transitions.create(command, NOW)
        assert isinstance(outcome, Created)
        again = transitions.repeat_create(outcome.state, command)
        self.assertEqual(again, Created(outcome.state, fresh=False))


class DeleteTests(RefusalTestCase):
    """DELETE (§5.4)."""

    def test_delete(self) -> None:
        """A deleted stream is removed, or marked if forks need it."""
        self.assertEqual(transitions.delete(OPEN), Deleted(OPEN))
        self.assertEqual(transitions.delete(CLOSED), Deleted(CLOSED))
        forked = replace(OPEN, forks=2)
        self.assertEqual(transitions.delete(forked), Deleted(replace(forked, deleted=True)))
