"""Checkers: files that change, and issuers that do not answer."""

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
    """A clock, and everything that is logged."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.logged: list[Any] = []
        remember: Any = self.logged.append
        globalLogPublisher.addObserver(remember)
        self.addCleanup(globalLogPublisher.removeObserver, remember)

    def said(self, word: str) -> int:
        """How often something of ours was logged with this word in it."""
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
        """Put another file in the place, as editors do."""
        new = Path(self.mktemp())
        new.write_text(text)
        os.replace(new, self.path)

    def who(self, secret: str) -> str | None:
        """Whose token it is."""
        found = self.checker.requestAvatarId(BearerToken(secret))
        if isinstance(found.result, Identity):
            return found.result.name
        self.failureResultOf(found, Rejected)
        return None

    def test_known(self) -> None:
        """By the token."""
        self.assertEqual(self.who("one"), "a")
        self.assertIsNone(self.who("two"))

    def test_changed(self) -> None:
        """A new file counts a moment later: tokens come, and tokens go."""
        self.write(_entry("b", "two"))
        self.assertEqual(self.who("one"), "a")
        self.clock.advance(2)
        self.assertEqual((self.who("one"), self.who("two")), (None, "b"))

    def test_spoiled(self) -> None:
        """Nonsense changes nothing, and is said once."""
        self.write("x = ")
        for _ in range(5):
            self.clock.advance(2)
            self.assertEqual(self.who("one"), "a")
        self.assertEqual(self.said("stay in force"), 1)
        self.write(_entry("b", "two"))
        self.clock.advance(2)
        self.assertEqual((self.who("one"), self.who("two")), (None, "b"))

    def test_gone(self) -> None:
        """Nor does a file that is not there any more."""
        self.path.unlink()
        self.clock.advance(2)
        self.assertEqual(self.who("one"), "a")
        self.assertEqual(self.said("stay in force"), 1)

    def test_unusable_at_the_beginning(self) -> None:
        """Then there is no beginning."""
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
    """`JwtChecker`, with an issuer that a test is."""

    def setUp(self) -> None:
        CheckerCase.setUp(self)
        self.asked: list[Deferred[bytes]] = []
        self.checker = JwtChecker(
            TokenRequirements(ISSUER, AUDIENCE),
            self.fetch,
            "id.example",
            self.clock,
            self.clock.seconds,
        )

    def fetch(self) -> Deferred[bytes]:
        """Remember that somebody has asked."""
        asked: Deferred[bytes] = Deferred()
        self.asked.append(asked)
        return asked

    def check(self, text: str) -> Deferred[Any]:
        """Ask whose token it is."""
        return self.checker.requestAvatarId(BearerToken(text))

    def good(self, name: str = "p256", **more: Any) -> str:
        """A token that is valid for long."""
        return token(name, exp=int(NOW) + 10**7, **more)

    def answer(self, *keys: str) -> None:
        """The issuer answers the last question."""
        self.asked[-1].callback(key_set(*keys))

    def fail_fetch(self) -> None:
        """It does not."""
        self.asked[-1].errback(FetchError("the response has status 500"))

    def started(self) -> None:
        """Keys are known."""
        self.checker.warm_up()
        self.answer("p256")

    def test_first(self) -> None:
        """The first clients wait, and share one question."""
        waiting = [self.check(self.good()) for _ in range(10)]
        self.assertEqual(len(self.asked), 1)
        for one in waiting:
            self.assertNoResult(one)
        self.answer("p256")
        for one in waiting:
            self.assertEqual(self.successResultOf(one).name, f"{ISSUER} ann")

    def test_warm(self) -> None:
        """Asked at the beginning, nobody waits."""
        self.started()
        self.successResultOf(self.check(self.good()))
        self.assertEqual(len(self.asked), 1)

    def test_clients_that_leave(self) -> None:
        """One who leaves takes nothing from the others."""
        leaves, stays = self.check(self.good()), self.check(self.good())
        leaves.cancel()
        self.failureResultOf(leaves)
        self.answer("p256")
        self.successResultOf(stays)

    def test_a_crowd_waits(self) -> None:
        """Only so many wait."""
        good = self.good()
        waiting = [self.check(good) for _ in range(MAX_KEY_WAITERS + 5)]
        for one in waiting[MAX_KEY_WAITERS:]:
            self.failureResultOf(one, CheckerUnavailable)
        self.answer("p256")
        self.successResultOf(waiting[0])

    def test_unknown_keys_are_no_lever(self) -> None:
        """However many names strangers make up, the issuer is asked once in a while."""
        self.started()
        self.clock.advance(KEY_SET_PAUSE)
        first = self.check(self.good("p256-new"))
        self.assertEqual(len(self.asked), 2)
        for number in range(50):
            self.check(token("p256", {"kid": f"made-up-{number}"})).addErrback(lambda _: None)
        self.assertEqual(len(self.asked), 2)
        self.answer("p256")
        self.failureResultOf(first, Rejected)
        for number in range(50):
            self.clock.advance(KEY_SET_PAUSE / 100)
            refused = self.check(token("p256", {"kid": f"other-{number}"}))
            self.failureResultOf(refused, Rejected)
        self.assertEqual(len(self.asked), 2)

    def test_nonsense_asks_nobody(self) -> None:
        """What could never be good does not even that."""
        self.started()
        self.clock.advance(KEY_SET_PAUSE)
        for text in ("x", "a.b.c", "e30.e30.AA"):
            self.failureResultOf(self.check(text), Rejected)
        self.assertEqual(len(self.asked), 1)

    def test_rotation(self) -> None:
        """A new key is known as soon as it is used, and an old one no longer than published."""
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
        """What was known is served on, within bounds; then nobody can tell."""
        self.started()
        good = self.good()
        asked = 1
        passed = 0.0
        while passed + KEY_SET_FRESH < KEY_SET_STALE:
            self.clock.advance(KEY_SET_FRESH)
            passed += KEY_SET_FRESH
            self.successResultOf(self.check(good))
            asked += 1
            self.assertEqual(len(self.asked), asked)
            self.fail_fetch()
            # A new token of a key at hand is good, too.
            self.successResultOf(self.check(self.good(sub="bob")))
        self.clock.advance(KEY_SET_FRESH)
        waiting = self.check(good)
        self.fail_fetch()
        sorry = self.failureResultOf(waiting, CheckerUnavailable)
        self.assertGreater(sorry.value.retry_after, 0)
        # Not even what was found good before; and nobody is asked for each request.
        count = len(self.asked)
        for _ in range(20):
            self.failureResultOf(self.check(good), CheckerUnavailable)
        self.assertEqual(len(self.asked), count)
        self.clock.advance(KEY_SET_PAUSE)
        waiting = self.check(good)
        self.answer("p256")
        self.successResultOf(waiting)

    def test_after_an_idle_night(self) -> None:
        """What was withdrawn while nobody came is not good for the first who comes."""
        self.started()
        old = self.good("p256")
        self.clock.advance(8 * 3600)
        waiting = self.check(old)
        self.assertNoResult(waiting)
        self.answer("p256-new")
        self.failureResultOf(waiting, Rejected)

    def test_after_an_idle_night_without_the_issuer(self) -> None:
        """But where the issuer does not answer, keys serve for as long as is said."""
        self.started()
        old = self.good("p256")
        self.clock.advance(8 * 3600)
        waiting = self.check(old)
        self.fail_fetch()
        self.successResultOf(waiting)

    def test_never_answered(self) -> None:
        """Nobody gets in while there are no keys."""
        waiting = self.check(self.good())
        self.fail_fetch()
        self.failureResultOf(waiting, CheckerUnavailable)
        self.failureResultOf(self.check(self.good()), CheckerUnavailable)
        self.assertEqual(len(self.asked), 1)

    def test_nonsense_from_the_issuer(self) -> None:
        """Keeps what was known."""
        self.started()
        for raw in (b"", b"{}", b'{"keys": []}', b"<html>"):
            self.clock.advance(KEY_SET_FRESH)
            self.successResultOf(self.check(self.good()))
            self.asked[-1].callback(raw)
            self.successResultOf(self.check(self.good()))

    def test_new_key_in_an_outage(self) -> None:
        """Whether it is good nobody can tell."""
        self.started()
        self.clock.advance(KEY_SET_PAUSE)
        waiting = self.check(self.good("p256-new"))
        self.fail_fetch()
        self.failureResultOf(waiting, CheckerUnavailable)

    def test_remembered_until_it_ends(self) -> None:
        """What was found good is not good for longer than it says."""
        self.started()
        text = token()
        self.successResultOf(self.check(text))
        self.clock.advance(299)
        self.successResultOf(self.check(text))
        self.clock.advance(1)
        self.failureResultOf(self.check(text), Rejected)

    def test_bounded(self) -> None:
        """The cache of good tokens holds a bounded number."""
        self.started()
        self.assertEqual(self.checker._verified.max_weight, TOKEN_CACHE)
        self.checker._verified.max_weight = 3
        for number in range(10):
            self.successResultOf(self.check(self.good(sub=f"{number}")))
        self.assertEqual(len(self.checker._verified), 3)

    def test_nothing_secret_is_logged_or_kept(self) -> None:
        """No token, good or bad, in the log, nor in memory longer than its request."""
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
