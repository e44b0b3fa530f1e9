"""Tests of `durable_streams_tw.protocol.streams.forks`."""

from __future__ import annotations

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import MAX_FORK_DEPTH, MAX_JSON_MESSAGES
from durable_streams_tw.protocol.streams import bodies, forks, transitions
from durable_streams_tw.protocol.streams.commands import Create, ForkRequest
from durable_streams_tw.protocol.streams.outcomes import Created
from durable_streams_tw.protocol.streams.parsing import parse_create, parse_fork
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime, StreamState

JSON = "application/json"
TEXT = "text/plain"
NOW = 1_000_000
TTL = Lifetime(ttl=60)
OTHER_TTL = Lifetime(ttl=3600)
DEADLINE = Lifetime(expires_at=NOW + 5000, expires_at_text="soon")
OTHER_DEADLINE = Lifetime(expires_at=NOW + 9000, expires_at_text="later")


def source(content_type: str = TEXT, tail: int = 10, lifetime: Lifetime = NO_EXPIRY) -> StreamState:
    return StreamState(7, "source", content_type, tail, 0, 0, lifetime)


def asking(
    content_type: str | None = None,
    lifetime: Lifetime = NO_EXPIRY,
    offset: int | None = None,
    sub_offset: int = 0,
    raw: bytes = b"",
    closed: bool = False,
) -> Create:
    body = bodies.Body(raw) if content_type is None else bodies.initial(content_type, raw)
    request = ForkRequest("source", offset, sub_offset)
    return Create("fork", content_type, lifetime, closed, body, request)


def forked(command: Create, of: StreamState) -> StreamState:
    point = forks.locate_fork_point(of, command)
    assert isinstance(point, int), point
    outcome = forks.fork(of, command, point, True, NOW)
    assert isinstance(outcome, Created), outcome
    return replace(outcome.state, id=8)


class RequestTests(SynchronousTestCase):
    """Headers of a fork request."""

    ROOT = b"/v1/stream/"

    def test_all_three(self) -> None:
        header = {
            b"stream-forked-from": b"/v1/stream/a%20b/c",
            b"stream-fork-offset": b"0000000000000000_0000000000000005",
            b"stream-fork-sub-offset": b"3",
        }
        self.assertEqual(parse_fork(header, self.ROOT), ForkRequest("a b/c", 5, 3))

    def test_source_alone(self) -> None:
        asked = parse_create({b"stream-forked-from": b"/v1/stream/a"}, NOW, self.ROOT)
        self.assertEqual(asked.fork, ForkRequest("a", None, 0))

    def test_none(self) -> None:
        self.assertIsNone(parse_create({}, NOW, self.ROOT).fork)

    def test_refused(self) -> None:
        source_field = {b"stream-forked-from": b"/v1/stream/a"}
        zero = b"0000000000000000_0000000000000000"
        for header, problem in [
            ({b"stream-fork-offset": zero}, Problem.INVALID_FORK),
            ({b"stream-fork-sub-offset": b"0"}, Problem.INVALID_FORK),
            (source_field | {b"stream-fork-offset": b"-1"}, Problem.MALFORMED_OFFSET),
            (source_field | {b"stream-fork-offset": b"now"}, Problem.MALFORMED_OFFSET),
            (source_field | {b"stream-fork-offset": b"zero"}, Problem.MALFORMED_OFFSET),
            (source_field | {b"stream-fork-offset": b""}, Problem.MALFORMED_OFFSET),
            (
                source_field | {b"stream-fork-offset": b"0_99999999999999999"},
                Problem.OFFSET_OUT_OF_RANGE,
            ),
            *[
                (source_field | {b"stream-fork-sub-offset": value}, Problem.MALFORMED_FIELD)
                for value in (b"", b"-1", b"abc", b"1.5", b"05", b"+1", b" 1")
            ],
            ({b"stream-forked-from": b"/elsewhere/a"}, Problem.STREAM_NOT_FOUND),
            ({b"stream-forked-from": b""}, Problem.STREAM_NOT_FOUND),
            ({b"stream-forked-from": b"/v1/stream/__ds/x"}, Problem.STREAM_NOT_FOUND),
            ({b"stream-forked-from": b"/v1/stream/../a"}, Problem.MALFORMED_PATH),
            ({b"stream-forked-from": b"/v1/stream/%2e%2e/a"}, Problem.MALFORMED_PATH),
            ({b"stream-forked-from": b"/v1/stream/"}, Problem.MALFORMED_PATH),
        ]:
            refused = self.assertRaises(Refused, parse_fork, header, self.ROOT)
            self.assertIs(refused.refusal.problem, problem, header)


class AnchorTests(SynchronousTestCase):
    """Fork points."""

    def problem(self, outcome: object) -> Problem:
        assert isinstance(outcome, Refusal), outcome
        return outcome.problem

    def test_bytes(self) -> None:
        for offset, sub_offset, point in [
            (None, 0, 10),
            (0, 0, 0),
            (10, 0, 10),
            (4, 3, 7),
            (4, 6, 10),
        ]:
            command = asking(offset=offset, sub_offset=sub_offset)
            self.assertEqual(forks.locate_fork_point(source(), command), point)

    def test_beyond_the_end(self) -> None:
        for offset, sub_offset in [(11, 0), (4, 7), (None, 1)]:
            command = asking(offset=offset, sub_offset=sub_offset)
            self.assertIs(
                self.problem(forks.locate_fork_point(source(), command)), Problem.INVALID_FORK
            )

    def test_content_type(self) -> None:
        self.assertEqual(forks.locate_fork_point(source(), asking("TEXT/Plain; charset=utf-8")), 10)
        refused = forks.locate_fork_point(source(), asking(JSON))
        self.assertIs(self.problem(refused), Problem.CONTENT_TYPE_MISMATCH)

    def test_depth(self) -> None:
        deep = source()
        for _ in range(MAX_FORK_DEPTH):
            deep = forked(asking(), deep)
        assert deep.fork is not None
        self.assertEqual(deep.fork.depth, MAX_FORK_DEPTH)
        self.assertIs(self.problem(forks.locate_fork_point(deep, asking())), Problem.INVALID_FORK)

    def test_messages_are_counted(self) -> None:
        stored = b'1,{"a":[1,2]},"x,y",[3],'
        of = source(JSON, len(stored))
        ends = [0, 2, 14, 20, 24]
        for messages in range(1, 5):
            step = forks.locate_fork_point(of, asking(offset=0, sub_offset=messages))
            assert isinstance(step, forks.RemainingMessages)
            self.assertEqual(forks.count_messages(step, len(stored), stored), ends[messages])
        step = forks.count_messages(forks.RemainingMessages(0, 6), len(stored), stored)
        self.assertEqual(step, forks.RemainingMessages(24, 2))
        assert isinstance(step, forks.RemainingMessages)
        step = forks.count_messages(step, 20_000, None)
        self.assertEqual(step, forks.RemainingMessages(20_024, 1))
        assert isinstance(step, forks.RemainingMessages)
        self.assertEqual(forks.count_messages(step, 20_000, None), 40_024)

    def test_no_store_counts_for_long(self) -> None:
        of = source(JSON, 10**9)
        nearest = forks.locate_fork_point(of, asking(offset=0, sub_offset=MAX_JSON_MESSAGES))
        self.assertIsInstance(nearest, forks.RemainingMessages)
        beyond = forks.locate_fork_point(of, asking(offset=0, sub_offset=MAX_JSON_MESSAGES + 1))
        self.assertIs(self.problem(beyond), Problem.INVALID_FORK)
        of = source(TEXT, 10**9)
        self.assertEqual(forks.locate_fork_point(of, asking(offset=0, sub_offset=10**8)), 10**8)

    def test_no_messages_asked_for_is_no_counting(self) -> None:
        self.assertEqual(
            forks.locate_fork_point(source(JSON, 4), asking(offset=2, sub_offset=0)), 2
        )

    def test_unusable_sources(self) -> None:
        self.assertIsNone(forks.check_source(source(), False))
        self.assertIs(self.problem(forks.check_source(None, False)), Problem.STREAM_NOT_FOUND)
        self.assertIs(self.problem(forks.check_source(source(), True)), Problem.STREAM_NOT_FOUND)
        gone = replace(source(), deleted=True, forks=1)
        self.assertIs(self.problem(forks.check_source(gone, True)), Problem.SOURCE_GONE)


class InheritanceTests(SynchronousTestCase):
    """State of a new fork."""

    def test_lifetimes(self) -> None:
        """Lifetimes of a fork: the nine rows of §4.2."""
        for of, asked, got in [
            (NO_EXPIRY, NO_EXPIRY, NO_EXPIRY),
            (NO_EXPIRY, TTL, TTL),
            (NO_EXPIRY, DEADLINE, DEADLINE),
            (TTL, NO_EXPIRY, TTL),
            (TTL, OTHER_TTL, OTHER_TTL),
            (TTL, DEADLINE, DEADLINE),
            (DEADLINE, NO_EXPIRY, DEADLINE),
            (DEADLINE, TTL, TTL),
            (DEADLINE, OTHER_DEADLINE, OTHER_DEADLINE),
        ]:
            fork = forked(asking(lifetime=asked), source(lifetime=of))
            self.assertEqual(fork.lifetime, got, (of, asked))

    def test_writers_start_afresh_and_it_is_open(self) -> None:
        of = replace(source(), closed=True, last_seq=b"9")
        fork = forked(asking(), of)
        self.assertFalse(fork.closed)
        self.assertIsNone(fork.last_seq)
        self.assertIsNone(fork.closed_by)
        self.assertEqual(fork.forks, 0)

    def test_body_is_framed_as_the_source(self) -> None:
        command = asking(raw=b"[1, 2]", offset=0)
        outcome = forks.fork(source(JSON, 0), command, 0, True, NOW)
        assert isinstance(outcome, Created)
        self.assertEqual((outcome.body.data, outcome.state.tail), (b"1,2,", 4))

    def test_invalid_body(self) -> None:
        command = asking(raw=b"[1, 2", offset=0)
        outcome = forks.fork(source(JSON, 0), command, 0, True, NOW)
        assert isinstance(outcome, Refusal)
        self.assertIs(outcome.problem, Problem.INVALID_JSON)

    def test_inside_a_message(self) -> None:
        outcome = forks.fork(source(JSON, 10), asking(offset=3), 3, False, NOW)
        assert isinstance(outcome, Refusal)
        self.assertIs(outcome.problem, Problem.INVALID_FORK)


class RecreateTests(SynchronousTestCase):
    """A PUT for an existing fork."""

    def status(self, first: Create, again: Create, of: StreamState | None = None) -> int:
        outcome = transitions.repeat_create(forked(first, of or source()), again)
        return outcome.problem.status if isinstance(outcome, Refusal) else 200

    def test_same_request(self) -> None:
        for command in [
            asking(),
            asking(TEXT),
            asking(offset=4, sub_offset=2),
            asking(lifetime=TTL),
            asking(closed=True),
        ]:
            self.assertEqual(self.status(command, command), 200, command)

    def test_inherited_content_type_may_be_left_out_or_named(self) -> None:
        self.assertEqual(self.status(asking(TEXT), asking()), 200)
        self.assertEqual(self.status(asking(), asking(TEXT)), 200)
        self.assertEqual(self.status(asking(), asking(JSON)), 409)

    def test_inherited_lifetime_may_be_left_out_or_named(self) -> None:
        of = source(lifetime=TTL)
        self.assertEqual(self.status(asking(), asking(), of), 200)
        self.assertEqual(self.status(asking(), asking(lifetime=TTL), of), 200)
        self.assertEqual(self.status(asking(), asking(lifetime=OTHER_TTL), of), 409)
        self.assertEqual(self.status(asking(lifetime=TTL), asking(), of), 409)

    def test_another_point(self) -> None:
        self.assertEqual(self.status(asking(offset=4), asking(offset=5)), 409)
        self.assertEqual(self.status(asking(offset=4), asking(offset=4, sub_offset=1)), 409)
        self.assertEqual(self.status(asking(offset=4), asking()), 409)

    def test_the_point_that_was_resolved(self) -> None:
        self.assertEqual(self.status(asking(), asking(offset=10)), 200)
        self.assertEqual(self.status(asking(offset=4, sub_offset=2), asking(offset=6)), 200)

    def test_other_origins(self) -> None:
        plain = Create("fork", TEXT, NO_EXPIRY, False, bodies.EMPTY)
        self.assertEqual(self.status(asking(), plain), 409)
        other = replace(asking(), fork=ForkRequest("elsewhere"))
        self.assertEqual(self.status(asking(), other), 409)
        created = transitions.create(plain, NOW)
        assert isinstance(created, Created)
        outcome = transitions.repeat_create(created.state, asking())
        assert isinstance(outcome, Refusal)
        self.assertEqual(outcome.problem.status, 409)

    def test_deleted_but_held(self) -> None:
        held = replace(forked(asking(), source()), deleted=True, forks=1)
        outcome = transitions.repeat_create(held, asking())
        assert isinstance(outcome, Refusal)
        self.assertIs(outcome.problem, Problem.PATH_HELD)


class CountTests(SynchronousTestCase):
    """Reference counts of a source."""

    def test_the_last_reference_of_a_deleted_source(self) -> None:
        one = forks.add_reference(source())
        two = forks.add_reference(one)
        self.assertEqual(forks.remove_reference(two), one)
        self.assertIsNone(forks.remove_reference(replace(one, deleted=True)))
        self.assertEqual(forks.remove_reference(one), source())
