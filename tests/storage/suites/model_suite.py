"""Suite: random histories compared with `store_model`."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from durable_streams_tw.protocol.errors import Problem, Refusal
from durable_streams_tw.protocol.streams.commands import Delete
from durable_streams_tw.protocol.streams.offsets import NOW
from durable_streams_tw.protocol.streams.outcomes import Appended, Created, Deleted
from durable_streams_tw.protocol.streams.state import NO_EXPIRY, Lifetime, StreamState
from durable_streams_tw.storage.api import Chunk, Command, Outcome
from tests.storage.store_case import JSON, TEXT, StoreCase, post, put
from tests.storage.suites.store_model import Model, Stream

PATHS = st.sampled_from("abc")
BODIES = st.sampled_from(
    (
        *(b"", b"[]", b"1", b'["a,b",[1,2],{"k":"],["}]', b'{"k":[1,"2"]}', b"[1,2", b'"\\ud83d"'),
        *(b"[" + b",".join([b'"%d"' % number for number in range(300)]) + b"]",),
        *(b'"' + b"x," * 5000 + b'"', b'["' + b"y," * 9000 + b'",' + b"1," * 4000 + b"2]"),
    )
)
JSON_MODE = st.sampled_from((True, True, True, False))
CLAIMS = st.none() | st.tuples(st.sampled_from("pq"), st.integers(0, 1), st.integers(0, 2))
WRITES = st.one_of(
    st.tuples(
        *(st.just("create"), PATHS, JSON_MODE, BODIES),
        *(st.sampled_from((None, None, 2)), st.sampled_from((False, False, False, True))),
    ),
    *[
        st.tuples(
            *(st.just("append"), PATHS, JSON_MODE, BODIES),
            *(st.sampled_from((False, False, False, False, True)),),
            *(st.sampled_from((None, None, b"1", b"2")), CLAIMS),
        )
    ]
    * 3,
    st.tuples(st.just("delete"), PATHS),
)
STEPS = st.one_of(
    st.lists(WRITES, min_size=1, max_size=6),
    st.lists(WRITES, min_size=1, max_size=6),
    st.tuples(st.just("read"), PATHS, st.integers(0, 30), st.sampled_from((1, 1024, 2**20))),
    st.tuples(st.just("sleep"), st.sampled_from((0.5, 1.5, 2))),
    st.just(("sweep",)),
    st.just(("restart",)),
)


class ModelSuite(StoreCase):
    """The store returns the outcomes of the model and has its content."""

    # Several classes run this test by inheritance.
    @settings(suppress_health_check=[HealthCheck.differing_executors])
    @given(st.lists(STEPS, max_size=14))
    def test_any_history(self, steps: list[Any]) -> None:
        """Batches of writes, reads, time, sweeps and restarts in any order."""
        self.finish()
        self.begin()
        self.model = Model()
        self.ids: dict[int, int] = {}
        for step in steps:
            note(repr(step))
            if isinstance(step, list):
                self._write(step)
            elif step[0] == "read":
                self._read(*step[1:])
            elif step[0] == "sleep":
                self.sleep(step[1])
            elif step[0] == "sweep":
                self.sweep(self.store)
            else:
                self.restart()
        for path in "abc":
            self._compare(path)

    def _write(self, batch: list[tuple[Any, ...]]) -> None:
        commands: list[Command] = []
        expected: list[tuple[int, str, int, bool, Stream | None]] = []
        for write in batch:
            kind, path = write[:2]
            if kind == "create":
                _, _, is_json, raw, ttl, closed = write
                lifetime = NO_EXPIRY if ttl is None else Lifetime(ttl=ttl)
                commands.append(put(path, JSON if is_json else TEXT, raw, lifetime, closed))
                status = self.model.create(path, is_json, raw, ttl, closed, self.now)
            elif kind == "append":
                _, _, is_json, raw, closed, seq, claim = write
                content_type = JSON if is_json else TEXT
                commands.append(post(raw, path, content_type, closed, seq, claim))
                status = self.model.append(path, is_json, raw, closed, seq, claim, self.now)
            else:
                commands.append(Delete(path))
                status = self.model.delete(path, self.now)
            stream = self.model.streams.get(path)
            tail = 0 if stream is None else len(stream.stored)
            expected.append((status, path, tail, stream is not None and stream.closed, stream))
        for outcome, (status, path, tail, closed, stream) in zip(
            self.submit_all(*commands), expected, strict=True
        ):
            self.assertEqual(self._status(outcome), status, outcome)
            if isinstance(outcome, Created | Appended):
                state = outcome.state
                self.assertEqual((state.path, state.tail, state.closed), (path, tail, closed))
                assert stream is not None
                self.assertEqual(self.ids.setdefault(stream.number, state.id), state.id)

    def _status(self, outcome: Outcome) -> int:
        if isinstance(outcome, Refusal):
            return outcome.problem.status
        if isinstance(outcome, Created):
            return 201 if outcome.fresh else 200
        if isinstance(outcome, Deleted):
            return 204
        assert isinstance(outcome, Appended), outcome
        return 200 if outcome.producer is not None and outcome.grew else 204

    def _read(self, path: str, offset: int, limit: int) -> None:
        outcome = self.result(self.store.read(path, offset, limit))
        stream = self.model.find(path, self.now)
        if stream is None:
            self.assertRefused(Problem.STREAM_NOT_FOUND, outcome)
        elif offset != NOW and offset not in stream.positions():
            self.assertRefused(Problem.OFFSET_OUT_OF_RANGE, outcome)
            # Stores may differ about whether this is an access: make it one.
            self._read(path, NOW, limit)
        else:
            self.model.read(path, self.now)
            assert isinstance(outcome, Chunk), outcome
            self._check(stream, outcome, offset, limit)

    def _check(self, stream: Stream, chunk: Chunk, offset: int, limit: int) -> None:
        start = len(stream.stored) if offset == NOW else offset
        self.assertEqual((chunk.start, chunk.state.tail), (start, len(stream.stored)))
        self.assertEqual(chunk.data, stream.stored[start : chunk.end])
        self.assertIn(chunk.end, stream.positions())
        self.assertTrue(chunk.data or start == len(stream.stored))
        if not stream.json:
            self.assertLessEqual(len(chunk.data), limit)

    def _compare(self, path: str) -> None:
        stream = self.model.find(path, self.now)
        state = self.result(self.store.get_state(path))
        if stream is None:
            self.assertRefused(Problem.STREAM_NOT_FOUND, state)
            return
        assert isinstance(state, StreamState), state
        self.assertEqual(state.id, self.ids[stream.number])
        self.assertEqual((state.closed, state.last_seq), (stream.closed, stream.last_seq))
        for limit in (1000, 2**20):
            content = b"".join([chunk.data for chunk in self.chunks(limit, path)])
            self.assertEqual(content, stream.stored)
