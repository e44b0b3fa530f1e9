"""Tests of `durable_streams_tw.auth.token_checkers`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from durable_streams_tw.auth.identities import BearerToken, CheckerUnavailable, Identity, Rejected
from durable_streams_tw.auth.jwks_sources import FetchError
from durable_streams_tw.auth.jwts import TokenRequirements
from durable_streams_tw.auth.limits import (
    KEY_SET_FRESH,
    KEY_SET_PAUSE,
    KEY_SET_STALE,
    MAX_KEY_WAITERS,
    TOKEN_CACHE,
)
from durable_streams_tw.auth.token_checkers import JwtChecker, TokenFileChecker, UnusableFile
from tests.auth.issuer import AUDIENCE, ISSUER, NOW, key_set, token


class CheckerCase(SynchronousTestCase):
    """Test case with a clock and a record of what is logged."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.logged: list[Any] = []
        remember: Any = self.logged.append
        globalLogPublisher.addObserver(remember)
        self.addCleanup(globalLogPublisher.removeObserver, remember)

    def count_logged(self, word: str) -> int:
        """Return how many log events contain a text."""
        return sum(word in event.get("log_format", "") for event in self.logged)


def _entry(name: str, secret: str) -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f'[tokens.{name}]\nsha256 = "{digest}"\ngrants = []\n'


class FileTests(CheckerCase):
    """`TokenFileChecker`."""

    def setUp(self) -> None:
        CheckerCase.setUp(self)
        self.path = Path(self.mktemp())
        self.write(_entry("a", "one"))
        self.checker = TokenFileChecker(str(self.path), self.clock, self.clock.seconds)

    def write(self, text: str) -> None:
        """Replace the file atomically, as editors do."""
        new = Path(self.mktemp())
        new.write_text(text)
        os.replace(new, self.path)

    def who(self, secret: str) -> str | None:
        """Return the name of a token's identity, None if it is rejected."""
        found = self.checker.requestAvatarId(BearerToken(secret))
        if isinstance(found.result, Identity):
            return found.result.name
        self.failureResultOf(found, Rejected)
        return None

    def test_known(self) -> None:
        self.assertEqual(self.who("one"), "a")
        self.assertIsNone(self.who("two"))

    def test_changed(self) -> None:
        """A changed file is reloaded after `TOKEN_FILE_CHECK`."""
        self.write(_entry("b", "two"))
        self.assertEqual(self.who("one"), "a")
        self.clock.advance(2)
        self.assertEqual((self.who("one"), self.who("two")), (None, "b"))

    def test_invalid_file(self) -> None:
        """An invalid file leaves the previous tokens in force, and is logged once."""
        self.write("x = ")
        for _ in range(5):
            self.clock.advance(2)
            self.assertEqual(self.who("one"), "a")
        self.assertEqual(self.count_logged("stay in force"), 1)
        self.write(_entry("b", "two"))
        self.clock.advance(2)
        self.assertEqual((self.who("one"), self.who("two")), (None, "b"))

    def test_missing_file(self) -> None:
        """A missing file leaves the previous tokens in force."""
        self.path.unlink()
        self.clock.advance(2)
        self.assertEqual(self.who("one"), "a")
        self.assertEqual(self.count_logged("stay in force"), 1)

    def test_unusable_at_the_beginning(self) -> None:
        """An unusable file at start is an error."""
        error = self.assertRaises(
            UnusableFile, TokenFileChecker, "/nowhere/at/all", self.clock, self.clock.seconds
        )
        self.assertIn("/nowhere/at/all", str(error))
        self.write("[tokens.a]\n")
        self.assertRaises(
            UnusableFile, TokenFileChecker, str(self.path), self.clock, self.clock.seconds
        )
        self.write("#" * (5 * 1024 * 1024))
        self.assertRaises(
            UnusableFile, TokenFileChecker, str(self.path), self.clock, self.clock.seconds
        )


class JwtTests(CheckerCase):
    """`JwtChecker`, with a fetch that the test settles."""

    def setUp(self) -> None:
        CheckerCase.setUp(self)
        self.fetches: list[Deferred[bytes]] = []
        self.checker = JwtChecker(
            TokenRequirements(ISSUER, AUDIENCE),
            self.fetch,
            "id.example",
            self.clock,
            self.clock.seconds,
        )

    def fetch(self) -> Deferred[bytes]:
        """Return a Deferred that the test settles."""
        asked: Deferred[bytes] = Deferred()
        self.fetches.append(asked)
        return asked

    def check(self, text: str) -> Deferred[Any]:
        """Check a token."""
        return self.checker.requestAvatarId(BearerToken(text))

    def good(self, name: str = "p256", **more: Any) -> str:
        """Return a token that stays valid."""
        return token(name, exp=int(NOW) + 10**7, **more)

    def answer(self, *keys: str) -> None:
        """Settle the last fetch with keys."""
        self.fetches[-1].callback(key_set(*keys))

    def fail_fetch(self) -> None:
        """Fail the last fetch."""
        self.fetches[-1].errback(FetchError("the response has status 500"))

    def started(self) -> None:
        """Fetch the first keys."""
        self.checker.warm_up()
        self.answer("p256")

    def test_first(self) -> None:
        """The first clients wait for one shared fetch."""
        waiting = [self.check(self.good()) for _ in range(10)]
        self.assertEqual(len(self.fetches), 1)
        for one in waiting:
            self.assertNoResult(one)
        self.answer("p256")
        for one in waiting:
            self.assertEqual(self.successResultOf(one).name, f"{ISSUER} ann")

    def test_warm(self) -> None:
        """After `warm_up` no client waits."""
        self.started()
        self.successResultOf(self.check(self.good()))
        self.assertEqual(len(self.fetches), 1)

    def test_disconnects(self) -> None:
        """A client that disconnects does not affect others that wait."""
        leaves, stays = self.check(self.good()), self.check(self.good())
        leaves.cancel()
        self.failureResultOf(leaves)
        self.answer("p256")
        self.successResultOf(stays)

    def test_waiters_are_bounded(self) -> None:
        """At most `MAX_KEY_WAITERS` clients wait for a fetch."""
        good = self.good()
        waiting = [self.check(good) for _ in range(MAX_KEY_WAITERS + 5)]
        for one in waiting[MAX_KEY_WAITERS:]:
            self.failureResultOf(one, CheckerUnavailable)
        self.answer("p256")
        self.successResultOf(waiting[0])

    def test_unknown_keys_are_rate_limited(self) -> None:
        """Unknown kids cause at most one fetch in `KEY_SET_PAUSE`."""
        self.started()
        self.clock.advance(KEY_SET_PAUSE)
        first = self.check(self.good("p256-new"))
        self.assertEqual(len(self.fetches), 2)
        for number in range(50):
            self.check(token("p256", {"kid": f"made-up-{number}"})).addErrback(lambda _: None)
        self.assertEqual(len(self.fetches), 2)
        self.answer("p256")
        self.failureResultOf(first, Rejected)
        for number in range(50):
            self.clock.advance(KEY_SET_PAUSE / 100)
            refused = self.check(token("p256", {"kid": f"other-{number}"}))
            self.failureResultOf(refused, Rejected)
        self.assertEqual(len(self.fetches), 2)

    def test_malformed_tokens(self) -> None:
        """Malformed tokens cause no fetch."""
        self.started()
        self.clock.advance(KEY_SET_PAUSE)
        for text in ("x", "a.b.c", "e30.e30.AA"):
            self.failureResultOf(self.check(text), Rejected)
        self.assertEqual(len(self.fetches), 1)

    def test_rotation(self) -> None:
        """A new key is fetched on first use; a withdrawn key fails after the next fetch."""
        self.started()
        old, new = self.good("p256"), self.good("p256-new")
        self.successResultOf(self.check(old))
        self.clock.advance(KEY_SET_PAUSE)
        waiting = self.check(new)
        self.answer("p256", "p256-new")
        self.successResultOf(waiting)
        self.successResultOf(self.check(old))
        self.clock.advance(KEY_SET_FRESH)
        self.successResultOf(self.check(old))
        self.answer("p256-new")
        self.failureResultOf(self.check(old), Rejected)
        self.successResultOf(self.check(new))

    def test_outage(self) -> None:
        """During an outage, known keys stay valid up to `KEY_SET_STALE`."""
        self.started()
        good = self.good()
        asked = 1
        passed = 0.0
        while passed + KEY_SET_FRESH < KEY_SET_STALE:
            self.clock.advance(KEY_SET_FRESH)
            passed += KEY_SET_FRESH
            self.successResultOf(self.check(good))
            asked += 1
            self.assertEqual(len(self.fetches), asked)
            self.fail_fetch()
            # A new token of a known key is accepted too.
            self.successResultOf(self.check(self.good(sub="bob")))
        self.clock.advance(KEY_SET_FRESH)
        waiting = self.check(good)
        self.fail_fetch()
        sorry = self.failureResultOf(waiting, CheckerUnavailable)
        self.assertGreater(sorry.value.retry_after, 0)
        # Tokens that were accepted before are refused too, without a fetch for each request.
        count = len(self.fetches)
        for _ in range(20):
            self.failureResultOf(self.check(good), CheckerUnavailable)
        self.assertEqual(len(self.fetches), count)
        self.clock.advance(KEY_SET_PAUSE)
        waiting = self.check(good)
        self.answer("p256")
        self.successResultOf(waiting)

    def test_idle_time(self) -> None:
        """After an idle time the first client waits for a fetch."""
        self.started()
        old = self.good("p256")
        self.clock.advance(8 * 3600)
        waiting = self.check(old)
        self.assertNoResult(waiting)
        self.answer("p256-new")
        self.failureResultOf(waiting, Rejected)

    def test_idle_time_and_outage(self) -> None:
        """If that fetch fails, known keys stay valid."""
        self.started()
        old = self.good("p256")
        self.clock.advance(8 * 3600)
        waiting = self.check(old)
        self.fail_fetch()
        self.successResultOf(waiting)

    def test_never_answered(self) -> None:
        """Without keys every token is refused as not checkable."""
        waiting = self.check(self.good())
        self.fail_fetch()
        self.failureResultOf(waiting, CheckerUnavailable)
        self.failureResultOf(self.check(self.good()), CheckerUnavailable)
        self.assertEqual(len(self.fetches), 1)

    def test_invalid_key_set(self) -> None:
        """An invalid JWKS leaves the known keys in force."""
        self.started()
        for raw in (b"", b"{}", b'{"keys": []}', b"<html>"):
            self.clock.advance(KEY_SET_FRESH)
            self.successResultOf(self.check(self.good()))
            self.fetches[-1].callback(raw)
            self.successResultOf(self.check(self.good()))

    def test_new_key_in_an_outage(self) -> None:
        """An unknown key during an outage is not checkable."""
        self.started()
        self.clock.advance(KEY_SET_PAUSE)
        waiting = self.check(self.good("p256-new"))
        self.fail_fetch()
        self.failureResultOf(waiting, CheckerUnavailable)

    def test_cached_until_expiry(self) -> None:
        """A cached token fails once it has expired."""
        self.started()
        text = token()
        self.successResultOf(self.check(text))
        self.clock.advance(299)
        self.successResultOf(self.check(text))
        self.clock.advance(1)
        self.failureResultOf(self.check(text), Rejected)

    def test_bounded(self) -> None:
        """The cache of verified tokens is bounded."""
        self.started()
        self.assertEqual(self.checker._verified.max_weight, TOKEN_CACHE)
        self.checker._verified.max_weight = 3
        for number in range(10):
            self.successResultOf(self.check(self.good(sub=f"{number}")))
        self.assertEqual(len(self.checker._verified), 3)

    def test_tokens_are_not_logged_or_kept(self) -> None:
        """Tokens appear neither in the log nor in the checker's state."""
        self.started()
        texts = [self.good(), self.good("p256-new"), "e30.canary.AA"]
        self.successResultOf(self.check(texts[0]))
        for text in texts[1:]:
            self.check(text).addErrback(lambda _: None)
        self.clock.advance(KEY_SET_PAUSE)
        self.check(texts[1]).addErrback(lambda _: None)
        self.fail_fetch()
        whole = repr(self.logged) + repr(self.checker.__dict__)
        for text in texts:
            self.assertNotIn(text, whole)
            self.assertNotIn(text.split(".")[1], whole)
