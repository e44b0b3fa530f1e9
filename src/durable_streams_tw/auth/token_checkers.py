"""Checkers of bearer tokens, for twisted.cred: a file of tokens, and the JWTs of an issuer.

What was known goes on being known within bounds: a file that cannot be read any more, or that
holds nonsense, leaves the last good one in place; an issuer that does not answer, its last keys.
"""

from __future__ import annotations

import hashlib
import os
from secrets import token_bytes
from typing import Any, Final

from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.auth import jwts
from durable_streams_tw.auth.identities import CannotTell, IBearerToken, Identity, Rejected
from durable_streams_tw.auth.jwks import KeySet, MalformedKeySet, read_key_set
from durable_streams_tw.auth.jwks_refresh import KeySetAction, KeySetFreshness
from durable_streams_tw.auth.jwks_sources import CannotFetch, Fetch
from durable_streams_tw.auth.jwts import InvalidToken, TokenRequirements, UnknownKey
from durable_streams_tw.auth.limits import (
    KEY_SET_STALE,
    MAX_KEY_WAITERS,
    MAX_TOKEN_FILE,
    TOKEN_CACHE,
    TOKEN_FILE_CHECK,
)
from durable_streams_tw.auth.token_file import MalformedFile, TokenTable, read_table
from durable_streams_tw.clocks import Seconds
from durable_streams_tw.datastructures.bounded_cache import BoundedCache

_log: Final = Logger()


class UnusableFile(Exception):
    """A file of tokens cannot be used; the message is a sentence for the operator."""


@implementer(ICredentialsChecker)
class TokenFileChecker:
    """Knows the tokens of a file (see `auth.token_file`), which is read again when it changes.

    Raises `UnusableFile` where it cannot be used at the beginning.
    """

    credentialInterfaces = (IBearerToken,)

    def __init__(self, path: str, clock: IReactorTime, wall: Seconds) -> None:
        self._path = os.path.abspath(path)
        self._clock = clock
        self._wall = wall
        self._key = token_bytes(32)
        self._looked = clock.seconds()
        self._seen: object = None
        self._table = self._read()

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Whose token it is. Fails with `Rejected`."""
        now = self._clock.seconds()
        if now >= self._looked + TOKEN_FILE_CHECK:
            self._looked = now
            self._look_again()
        who = self._table.find(credentials.token, self._wall())
        return fail(Rejected("the token is not known")) if who is None else succeed(who)

    def _look_again(self) -> None:
        try:
            if self._mark() != self._seen:
                self._table = self._read()
                _log.info("Tokens are those of {path} again", path=self._path)
        except (OSError, UnusableFile) as error:
            sentence = str(error)
            if sentence != self._seen:
                # Once for each reason, not for each request.
                self._seen = sentence
                _log.error("The tokens known before stay in force: {sentence}", sentence=sentence)

    def _mark(self) -> object:
        found = os.stat(self._path)
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> TokenTable:
        try:
            mark = self._mark()
            with open(self._path, "rb") as file:
                raw = file.read(MAX_TOKEN_FILE + 1)
        except OSError as error:
            raise UnusableFile(
                f"the tokens in {self._path} cannot be read: {error.strerror}"
            ) from None
        if len(raw) > MAX_TOKEN_FILE:
            raise UnusableFile(f"{self._path} has more than {MAX_TOKEN_FILE} bytes")
        try:
            table = read_table(raw, self._key)
        except MalformedFile as error:
            raise UnusableFile(f"{self._path}: {error}") from None
        self._seen = mark
        return table


@implementer(ICredentialsChecker)
class JwtChecker:
    """Knows the tokens of an issuer, by its keys, which ``fetch`` gets.

    ``source`` names the issuer in the log; ``clock`` times the fetching of keys, ``wall`` is what
    the tokens' claims are compared with.
    """

    credentialInterfaces = (IBearerToken,)

    def __init__(
        self,
        expected: TokenRequirements,
        fetch: Fetch,
        source: str,
        clock: IReactorTime,
        wall: Seconds,
    ) -> None:
        self._expected = expected
        self._fetch = fetch
        self._source = source
        self._clock = clock
        self._wall = wall
        self._freshness = KeySetFreshness()
        self._raw = b""
        self._keys = KeySet(())
        # Tokens that were found good with these keys, by their hash.
        self._good: BoundedCache[bytes, Identity] = BoundedCache(TOKEN_CACHE)
        self._fetching = False
        self._failed = False
        self._waiting: dict[Deferred[None], None] = {}

    def warm_up(self) -> None:
        """Fetch the keys now, so that the first client need not wait."""
        if self._freshness.known(self._clock.seconds()) is KeySetAction.WAIT:
            self._begin()

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Whose token it is. Fails with `Rejected`, and with `CannotTell`."""
        token: str = credentials.token
        try:
            wait = self._must_wait(token)
            if isinstance(wait, Identity):
                return succeed(wait)
        except (InvalidToken, CannotTell) as error:
            return fail(self._answer(error))
        return wait.addCallback(lambda _: self._check(token)).addErrback(self._explained)

    def _must_wait(self, token: str) -> Identity | Deferred[None]:
        """Whose token it is, or what has to be waited for."""
        plan = self._freshness.known(self._clock.seconds())
        if plan is KeySetAction.REFRESH:
            self._begin()
        if plan is KeySetAction.USE or plan is KeySetAction.REFRESH:
            try:
                return self._check(token)
            except UnknownKey:
                if not self._fetching and not self._freshness.unknown(self._clock.seconds()):
                    raise
        elif plan is KeySetAction.REFUSE and not self._fetching:
            raise self._cannot_tell()
        self._begin()
        return self._wait()

    def _explained(self, failure: Failure) -> Failure:
        error = failure.value
        return Failure(self._answer(error)) if isinstance(error, InvalidToken) else failure

    def _answer(self, error: Exception) -> Exception:
        """What is said of a token, once everything is known that can be."""
        if isinstance(error, UnknownKey) and self._failed:
            # It may be new: the issuer has not answered when it was asked last.
            return self._cannot_tell()
        return Rejected(str(error)) if isinstance(error, InvalidToken) else error

    # -- tokens -------------------------------------------------------------------------------

    def _check(self, token: str) -> Identity:
        now = self._wall()
        digest = hashlib.sha256(token.encode("ascii")).digest()
        who = self._good.get(digest)
        if who is not None and (who.expires_at is None or now < who.expires_at):
            return who
        who = jwts.identity(token, self._expected, self._keys, now)
        self._good.put(digest, who)
        return who

    def _cannot_tell(self) -> CannotTell:
        wait = self._freshness.wait(self._clock.seconds())
        return CannotTell("the issuer of the tokens does not answer", max(1, round(wait)))

    # -- keys ---------------------------------------------------------------------------------

    def _wait(self) -> Deferred[None]:
        """Fires when the fetch has ended. Cancelling is a client that has left."""
        if not self._fetching:
            # It was done at once.
            return succeed(None)
        if len(self._waiting) >= MAX_KEY_WAITERS:
            raise self._cannot_tell()
        waiting: Deferred[None] = Deferred(lambda left: self._waiting.pop(left, None))
        self._waiting[waiting] = None
        return waiting.addCallback(self._waited)

    def _waited(self, _: None) -> None:
        if self._freshness.known(self._clock.seconds()) in (KeySetAction.WAIT, KeySetAction.REFUSE):
            raise self._cannot_tell()

    def _begin(self) -> None:
        if self._fetching:
            return
        self._fetching = True
        self._freshness.asked(self._clock.seconds())
        maybeDeferred(self._fetch).addCallback(self._fetched).addErrback(self._unanswered).addBoth(
            self._ended
        )

    def _fetched(self, raw: bytes) -> None:
        if raw != self._raw:
            self._keys = read_key_set(raw)
            self._raw = raw
            # What another key has signed is not good any more.
            self._good.clear()
            if self._keys.left_out:
                _log.warn(
                    "{count} keys of {source} are of no use here, and were left out",
                    count=self._keys.left_out,
                    source=self._source,
                )
        self._failed = False
        self._freshness.answered(self._clock.seconds())

    def _unanswered(self, failure: Failure) -> None:
        self._failed = True
        error = failure.value
        reason = str(error) if isinstance(error, CannotFetch | MalformedKeySet) else repr(error)
        _log.warn(
            "The keys of {source} could not be fetched ({reason}): those known before serve for "
            "{hours} hours at most",
            source=self._source,
            reason=reason,
            hours=round(KEY_SET_STALE / 3600),
        )

    def _ended(self, _: object) -> None:
        self._fetching = False
        waiting, self._waiting = self._waiting, {}
        for one in waiting:
            one.callback(None)
