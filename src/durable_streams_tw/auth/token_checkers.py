"""Checkers of bearer tokens (twisted.cred): a token file, and the JWTs of an issuer.

Failures leave the last good state in force: an unreadable or invalid file the tokens read before,
an issuer that does not respond its last keys (up to `limits.KEY_SET_STALE`).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from secrets import token_bytes
from typing import Any, Final

from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from durable_streams_tw.auth import jwts, limits
from durable_streams_tw.auth.identities import CheckerUnavailable, IBearerToken, Identity, Rejected
from durable_streams_tw.auth.jwks import KeySet, MalformedKeySet, read_key_set
from durable_streams_tw.auth.jwks_refresh import RefreshAction, RefreshPolicy
from durable_streams_tw.auth.jwks_sources import Fetch, FetchError
from durable_streams_tw.auth.jwts import InvalidToken, TokenRequirements, UnknownKey
from durable_streams_tw.auth.token_file import MalformedFile, TokenTable, read_table
from durable_streams_tw.clocks import Seconds
from durable_streams_tw.datastructures.bounded_cache import BoundedCache

_log: Final = Logger()

#: Sent to a client whose token no checker knows.
UNKNOWN_TOKEN: Final = "the token is not known"


class UnusableFile(Exception):
    """Error in a token file at start. The message is for the operator."""


@implementer(ICredentialsChecker)
class TokenFileChecker:
    """Checker of the tokens in a file (see `auth.token_file`), reloaded when the file changes.

    Raise `UnusableFile` if the file cannot be used when the checker is made.
    """

    credentialInterfaces = (IBearerToken,)

    def __init__(self, path: str, clock: IReactorTime, wall: Seconds) -> None:
        self._path = os.path.abspath(path)
        self._clock = clock
        self._wall = wall
        self._key = token_bytes(32)
        self._checked_at = clock.seconds()
        # Identity of the file that was read, or the last error that was logged.
        self._seen: object = None
        self._table = self._read()

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Return the identity of a token. Fail with `Rejected`."""
        now = self._clock.seconds()
        if now >= self._checked_at + limits.TOKEN_FILE_CHECK:
            self._checked_at = now
            self._reload()
        who = self._table.find(credentials.token, self._wall())
        return fail(Rejected(UNKNOWN_TOKEN)) if who is None else succeed(who)

    def _reload(self) -> None:
        try:
            if self._file_identity() != self._seen:
                self._table = self._read()
                _log.info("Reloaded the token file {path}", path=self._path)
        except (OSError, UnusableFile) as error:
            reason = str(error)
            if reason != self._seen:
                # Log each reason once, not at every check.
                self._seen = reason
                _log.error(
                    "Could not reload the token file, so the previous tokens stay in force: "
                    "{reason}",
                    reason=reason,
                )

    def _file_identity(self) -> object:
        found = os.stat(self._path)
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> TokenTable:
        try:
            identity = self._file_identity()
            with open(self._path, "rb") as file:
                raw = file.read(limits.MAX_TOKEN_FILE + 1)
        except OSError as error:
            raise UnusableFile(
                f"could not read the token file {self._path}: {error.strerror}"
            ) from None
        if len(raw) > limits.MAX_TOKEN_FILE:
            raise UnusableFile(
                f"the token file {self._path} is larger than {limits.MAX_TOKEN_FILE} bytes"
            )
        try:
            table = read_table(raw, self._key)
        except MalformedFile as error:
            raise UnusableFile(f"the token file {self._path} is not valid: {error}") from None
        self._seen = identity
        return table


@implementer(ICredentialsChecker)
@dataclass(eq=False)
class JwtChecker:
    """Checker of an issuer's JWTs, with the JWKS that ``fetch`` returns.

    ``source`` names the issuer in the log. ``clock`` (monotonic) times the fetches, ``wall`` is
    compared with the times in tokens.
    """

    credentialInterfaces = (IBearerToken,)

    _requirements: TokenRequirements
    _fetch: Fetch
    _source: str
    _clock: IReactorTime
    _wall: Seconds

    def __post_init__(self) -> None:
        self._refresh = RefreshPolicy()
        self._raw = b""
        self._keys = KeySet(())
        # Tokens verified with these keys, by their SHA-256.
        self._verified: BoundedCache[bytes, Identity] = BoundedCache(limits.TOKEN_CACHE)
        self._fetching = self._failed = False
        self._waiting: dict[Deferred[None], None] = {}

    def warm_up(self) -> None:
        """Start the first fetch, so that the first client need not wait for it."""
        if self._refresh.action(self._clock.seconds()) is RefreshAction.WAIT:
            self._start_fetch()

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Return the identity of a token. Fail with `Rejected` or `CheckerUnavailable`."""
        token: str = credentials.token
        try:
            result = self._check_or_wait(token)
            if isinstance(result, Identity):
                return succeed(result)
        except (InvalidToken, CheckerUnavailable) as error:
            return fail(self._public_error(error))
        return result.addCallback(lambda _: self._verify(token)).addErrback(self._failed_check)

    def _check_or_wait(self, token: str) -> Identity | Deferred[None]:
        """Return the identity of a token, or a Deferred that fires after a fetch."""
        action = self._refresh.action(self._clock.seconds())
        if action is RefreshAction.REFRESH:
            self._start_fetch()
        if action is RefreshAction.USE or action is RefreshAction.REFRESH:
            try:
                return self._verify(token)
            except UnknownKey:
                if not self._fetching and not self._refresh.may_fetch(self._clock.seconds()):
                    raise
        elif action is RefreshAction.REFUSE and not self._fetching:
            raise self._unavailable()
        self._start_fetch()
        return self._wait_for_fetch()

    def _failed_check(self, failure: Failure) -> Failure:
        error = failure.value
        return Failure(self._public_error(error)) if isinstance(error, InvalidToken) else failure

    def _public_error(self, error: Exception) -> Exception:
        """Return the error for the client."""
        if isinstance(error, UnknownKey) and self._failed:
            # The key may be new: the last fetch failed.
            return self._unavailable()
        return Rejected(str(error)) if isinstance(error, InvalidToken) else error

    # -- tokens -------------------------------------------------------------------------------

    def _verify(self, token: str) -> Identity:
        now = self._wall()
        digest = hashlib.sha256(token.encode("ascii")).digest()
        who = self._verified.get(digest)
        if who is not None and (who.expires_at is None or now < who.expires_at):
            return who
        who = jwts.identity(token, self._requirements, self._keys, now)
        self._verified.put(digest, who)
        return who

    def _unavailable(self) -> CheckerUnavailable:
        wait = self._refresh.retry_after(self._clock.seconds())
        return CheckerUnavailable(
            "the token cannot be checked: its issuer does not respond", max(1, round(wait))
        )

    # -- keys ---------------------------------------------------------------------------------

    def _wait_for_fetch(self) -> Deferred[None]:
        """Return a Deferred that fires when the fetch ends. Cancel it when the client leaves."""
        if not self._fetching:
            # The fetch ended synchronously.
            return succeed(None)
        if len(self._waiting) >= limits.MAX_KEY_WAITERS:
            raise self._unavailable()
        waiting: Deferred[None] = Deferred(lambda waiter: self._waiting.pop(waiter, None))
        self._waiting[waiting] = None
        return waiting.addCallback(self._require_keys)

    def _require_keys(self, _: None) -> None:
        if self._refresh.action(self._clock.seconds()) in (
            RefreshAction.WAIT,
            RefreshAction.REFUSE,
        ):
            raise self._unavailable()

    def _start_fetch(self) -> None:
        if self._fetching:
            return
        self._fetching = True
        self._refresh.requested_at = self._clock.seconds()
        maybeDeferred(self._fetch).addCallback(self._fetched).addErrback(
            self._fetch_failed
        ).addBoth(self._fetch_ended)

    def _fetched(self, raw: bytes) -> None:
        if raw != self._raw:
            self._keys = read_key_set(raw)
            self._raw = raw
            # Tokens signed with a withdrawn key must fail from now on.
            self._verified.clear()
            if self._keys.skipped:
                _log.warn(
                    "Skipped {count} unusable keys in the JWKS of {source}",
                    count=self._keys.skipped,
                    source=self._source,
                )
        self._failed = False
        self._refresh.fetched_at = self._clock.seconds()

    def _fetch_failed(self, failure: Failure) -> None:
        self._failed = True
        error = failure.value
        reason = str(error) if isinstance(error, FetchError | MalformedKeySet) else repr(error)
        _log.warn(
            "Could not fetch the JWKS of {source}: {reason}. Known keys stay valid for up to "
            "{hours} hours; tokens with other keys get 503",
            source=self._source,
            reason=reason,
            hours=round(limits.KEY_SET_STALE / 3600),
        )

    def _fetch_ended(self, _: object) -> None:
        self._fetching = False
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.callback(None)
