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
    """Refresh times of one JWKS, in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._fetched_at: float | None = None
        self._requested_at: float | None = None

    def action(self, now: float) -> RefreshAction:
        """Return the action for a token whose key is or may be known."""
        may_fetch = self.may_fetch(now)
        if self._fetched_at is None or now >= self._fetched_at + KEY_SET_STALE:
            return RefreshAction.WAIT if may_fetch else RefreshAction.REFUSE
        if now >= self._fetched_at + KEY_SET_FRESH and may_fetch:
            # After an idle time a key may have been withdrawn long ago: wait. During an outage
            # fetches are frequent, so that clients do not wait.
            idle = self._requested_at is None or now >= self._requested_at + 2 * KEY_SET_FRESH
            return RefreshAction.WAIT if idle else RefreshAction.REFRESH
        return RefreshAction.USE

    def may_fetch(self, now: float) -> bool:
        """Return whether a fetch may start, for a token whose key is unknown too."""
        return self.retry_after(now) <= 0

    def fetch_started(self, now: float) -> None:
        """Record the start of a fetch."""
        self._requested_at = now

    def fetch_succeeded(self, now: float) -> None:
        """Record that a fetch has returned usable keys."""
        self._fetched_at = now

    def retry_after(self, now: float) -> float:
        """Return the seconds until the next fetch may start."""
        if self._requested_at is None:
            return 0.0
        return max(0.0, self._requested_at + KEY_SET_PAUSE - now)
