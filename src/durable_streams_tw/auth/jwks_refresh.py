"""Refresh policy of an issuer's JWKS: when to fetch it again, and how long old keys stay valid.

Any client can cause a fetch by naming an unknown key, so fetches are at least `KEY_SET_PAUSE`
apart; while the issuer does not respond, known keys stay valid up to `KEY_SET_STALE`.
"""

from __future__ import annotations

from enum import Enum

from durable_streams_tw.auth.limits import KEY_SET_FRESH, KEY_SET_PAUSE, KEY_SET_STALE


class RefreshAction(Enum):
    """Decision about the keys for one token."""

    USE = "use the known keys"
    REFRESH = "use the known keys and start a fetch"
    WAIT = "start a fetch and wait for it"
    REFUSE = "no valid keys, and too early to fetch again"


class RefreshPolicy:
    """Refresh times of one JWKS, in seconds of a monotonic clock.

    The caller sets ``requested_at`` when a fetch begins, and ``fetched_at`` when one has returned
    usable keys.
    """

    def __init__(self) -> None:
        self.fetched_at: float | None = None
        self.requested_at: float | None = None

    def action(self, now: float) -> RefreshAction:
        """Return the action before a token is checked with the known keys."""
        may_fetch = self.may_fetch(now)
        if self.fetched_at is None or now >= self.fetched_at + KEY_SET_STALE:
            return RefreshAction.WAIT if may_fetch else RefreshAction.REFUSE
        if now >= self.fetched_at + KEY_SET_FRESH and may_fetch:
            # After an idle time a key may have been withdrawn long ago: wait. During an outage
            # fetches are frequent, so that clients do not wait.
            idle = self.requested_at is None or now >= self.requested_at + 2 * KEY_SET_FRESH
            return RefreshAction.WAIT if idle else RefreshAction.REFRESH
        return RefreshAction.USE

    def may_fetch(self, now: float) -> bool:
        """Return whether a fetch may start, for a token whose key is unknown too."""
        return self.retry_after(now) <= 0

    def retry_after(self, now: float) -> float:
        """Return the seconds until the next fetch may start."""
        if self.requested_at is None:
            return 0.0
        return max(0.0, self.requested_at + KEY_SET_PAUSE - now)
