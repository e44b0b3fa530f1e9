"""Tests of `durable_streams_tw.protocol.subscriptions.parsing`: requests and error codes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_tw.protocol import limits
from durable_streams_tw.protocol.errors import Problem, Refusal, Refused
from durable_streams_tw.protocol.limits import MAX_WAKE_STREAMS
from durable_streams_tw.protocol.streams.offsets import format_offset
from durable_streams_tw.protocol.subscriptions import commands as requests
from durable_streams_tw.protocol.subscriptions import parsing
from durable_streams_tw.protocol.subscriptions.commands import Ack, Subscribe
from durable_streams_tw.protocol.subscriptions.state import Config, Kind, TokenClaims, Wake
from tests.protocol.refusal_case import RefusalTestCase

PROOF = TokenClaims(1, Wake(7, "w_a"))


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def hook(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": "webhook",
        "pattern": "events/*",
        "webhook": {"url": "https://hook.example/"},
    }
    body.update(changes)
    return body


def pull(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"type": "pull-wake", "streams": ["a"], "wake_stream": "wake"}
    body.update(changes)
    return body


def _nested(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(("type", "pattern", "streams", "webhook", "url", "worker", "x"))
    return st.lists(children, max_size=3) | st.dictionaries(keys, children, max_size=5)


class SubscribeTests(RefusalTestCase):
    """PUT (§6.2)."""

    def subscribe(self, value: Any) -> Subscribe:
        return parsing.parse_subscribe("s", raw(value))

    def test_webhook(self) -> None:
        asked = self.subscribe(hook(description="d", unknown=[1]))
        url = "https://hook.example/"
        self.assertEqual(asked.config, Config(Kind.WEBHOOK, "events/*", url, None, 30_000, "d"))
        self.assertEqual(asked.streams, ())

    def test_pull(self) -> None:
        asked = self.subscribe(pull(streams=["/b/", "a", "a"], lease_ttl_ms=1000, pattern=None))
        self.assertEqual(asked.config, Config(Kind.PULL, None, None, "wake", 1000, None))
        self.assertEqual(asked.streams, ("a", "b"))

    def test_what_is_of_the_other_kind_is_ignored(self) -> None:
        self.assertEqual(self.subscribe(hook(wake_stream="x")), self.subscribe(hook()))
        changed = pull(webhook={"url": "ftp://"})
        self.assertEqual(self.subscribe(changed), self.subscribe(pull()))

    def test_refused(self) -> None:
        wrong: tuple[Any, ...] = (
            None,
            [],
            {},
            hook(type="push"),
            hook(type=None),
            hook(pattern=None),
            hook(pattern=""),
            hook(pattern=1),
            hook(pattern="a*"),
            hook(pattern=None, streams=[]),
            hook(streams=[""]),
            hook(streams=[1]),
            hook(streams="a"),
            hook(streams=["a/../b"]),
            hook(streams=["__ds/x"]),
            hook(streams=["/"]),
            hook(webhook=None),
            hook(webhook={}),
            hook(webhook={"url": ""}),
            hook(webhook={"url": 1}),
            hook(webhook={"url": "x" * 2049}),
            hook(lease_ttl_ms=999),
            hook(lease_ttl_ms=600_001),
            hook(lease_ttl_ms=1000.5),
            hook(lease_ttl_ms="1000"),
            hook(lease_ttl_ms=True),
            hook(description=1),
            hook(description="x" * 1025),
            pull(wake_stream=None),
            pull(wake_stream=""),
            pull(wake_stream="a"),
            pull(wake_stream="a//b"),
            pull(wake_stream="__ds"),
            pull(streams=[str(number) for number in range(limits.MAX_EXPLICIT_STREAMS + 1)]),
        )
        for body in wrong:
            self.assertRefused(Problem.INVALID_REQUEST, self.subscribe, body)
        for text in (b"", b"{", b"\xff", b'{"type": "\xff"}', b"[" * 100_000, b'{"x":' * 50_000):
            self.assertRefused(Problem.INVALID_REQUEST, parsing.parse_subscribe, "s", text)
        large = b" " * (limits.MAX_CONTROL_BODY + 1)
        self.assertRefused(Problem.BODY_TOO_LARGE, parsing.parse_subscribe, "s", large)

    def test_bounds_are_included(self) -> None:
        for ttl in (limits.MIN_LEASE_TTL_MS, limits.MAX_LEASE_TTL_MS):
            self.assertEqual(self.subscribe(hook(lease_ttl_ms=ttl)).config.lease_ttl, ttl)

    def test_digest(self) -> None:
        """The digest depends on the configuration, not on its spelling."""
        base = hook(streams=["a", "b"], description="d", lease_ttl_ms=1000)
        same = [
            hook(streams=["b", "/a", "b"], description="d", lease_ttl_ms=1000),
            hook(streams=["a", "b"], description="d", lease_ttl_ms=1000, pattern="/events/*/"),
        ]
        digest = self.subscribe(base).digest
        for body in same:
            self.assertEqual(self.subscribe(body).digest, digest)
        others = [
            {**base, "pattern": "events/**"},
            {**base, "streams": ["a"]},
            {**base, "webhook": {"url": "https://hook.example/x"}},
            {**base, "lease_ttl_ms": 1001},
            {**base, "description": "e"},
            {**base, "description": None},
            {**base, "type": "pull-wake", "wake_stream": "w"},
            {**base, "type": "pull-wake", "wake_stream": "v"},
        ]
        digests = {self.subscribe(body).digest for body in others}
        self.assertEqual(len(digests), len(others))
        self.assertNotIn(digest, digests)
        self.assertEqual(self.subscribe({**hook(), "lease_ttl_ms": 30_000}), self.subscribe(hook()))

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), _nested))
    def test_any_json(self, value: Any) -> None:
        """Any JSON is parsed or refused."""
        for parse in (parsing.parse_subscribe, parsing.parse_link_streams, parsing.parse_claim):
            try:
                parse("s", raw(value))
            except Refused as refused:
                self.assertEqual(refused.refusal.problem, Problem.INVALID_REQUEST)


class OtherTests(RefusalTestCase):
    """Ids, links, claims, acks and releases."""

    def test_ids(self) -> None:
        for written, name in ((b"sub-1", "sub-1"), (b"a%2Fb", "a/b"), (b"%C3%A4", "ä")):
            self.assertEqual(parsing.parse_subscription_id(written), name)
        for written in (b"", b"%", b"%00", b".", b"..", b"%ff", b"x" * 257):
            self.assertRefused(Problem.INVALID_REQUEST, parsing.parse_subscription_id, written)
        self.assertEqual(parsing.parse_subscription_id(b"x" * 256), "x" * 256)

    def test_links(self) -> None:
        linked = parsing.parse_link_streams("s", raw({"streams": ["/x/y/", "x/y", "b"]}))
        self.assertEqual(linked.streams, ("b", "x/y"))
        wrong: tuple[Any, ...] = ({}, {"streams": []}, {"streams": [None]}, {"streams": ["."]})
        for body in wrong:
            self.assertRefused(Problem.INVALID_REQUEST, parsing.parse_link_streams, "s", raw(body))
        for written in (b"manual%2Fb", b"manual/b", b"/manual%2fb/"):
            self.assertEqual(parsing.parse_unlink_stream("s", written).path, "manual/b")
        for written in (b"", b"%", b"a//b"):
            self.assertRefused(Problem.INVALID_REQUEST, parsing.parse_unlink_stream, "s", written)

    def test_claim(self) -> None:
        self.assertEqual(parsing.parse_claim("s", raw({"worker": "w"})).worker, "w")
        wrong: tuple[Any, ...] = ({}, {"worker": ""}, {"worker": 1}, {"worker": "x" * 1025})
        for body in wrong:
            self.assertRefused(Problem.INVALID_REQUEST, parsing.parse_claim, "s", raw(body))

    def settle(self, **changes: Any) -> requests.Settle:
        body = {"wake_id": "w_a", "generation": 7, **changes}
        return parsing.parse_settle("s", Kind.PULL, PROOF, raw(body))

    def test_settle(self) -> None:
        offset = format_offset(None, 84)
        acks = [{"stream": "/events/a", "offset": offset}, {"path": "b", "offset": "0_0"}]
        asked = self.settle(acks=acks, done=True)
        self.assertEqual(asked.acks, (Ack("events/a", 84), Ack("b", 0)))
        self.assertEqual((asked.wake, asked.done, asked.proof), (Wake(7, "w_a"), True, PROOF))
        self.assertEqual((self.settle().acks, self.settle().done), ((), False))
        bad = Refusal(Problem.TOKEN_INVALID, "")
        self.assertIs(
            parsing.parse_release("s", bad, raw({"wake_id": "", "generation": 0})).proof, bad
        )

    def test_settle_refused(self) -> None:
        wrong: tuple[dict[str, Any], ...] = (
            {"wake_id": None},
            {"wake_id": 7},
            {"generation": None},
            {"generation": "7"},
            {"generation": -1},
            {"generation": 2**53},
            {"done": 1},
            {"acks": {}},
            {"acks": [{}]},
            {"acks": [{"stream": "a"}]},
            {"acks": [{"offset": "0_0"}]},
            {"acks": [{"stream": "a", "offset": "0_0"}] * (MAX_WAKE_STREAMS + 1)},
            {"acks": [{"stream": "a//b", "offset": "0_0"}]},
        )
        for changes in wrong:
            self.assertRefused(Problem.INVALID_REQUEST, lambda asked=changes: self.settle(**asked))
        for offset in ("-1", "now", "", "x", "0_1e3", "0_" + "9" * 32):
            acks = [{"stream": "a", "offset": offset}]
            self.assertRefused(Problem.INVALID_OFFSET, lambda asked=acks: self.settle(acks=asked))
        self.assertRefused(Problem.INVALID_REQUEST, parsing.parse_release, "s", PROOF, b"{}")
