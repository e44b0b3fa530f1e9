"""When an issuer's keys are fetched again, and for how long old ones serve.

Strangers may make a server look for keys, by naming one that nobody knows; the issuer must not
suffer from that, and its own failures must not stop what can still be told.
"""

from __future__ import annotations

from enum import Enum

from durable_streams_tw.auth.limits import KEY_SET_FRESH, KEY_SET_PAUSE, KEY_SET_STALE


class KeySetAction(Enum):
    """What is done with the keys at hand."""

    USE = "use them"
    REFRESH = "use them, and fetch them again meanwhile"
    WAIT = "fetch them, and wait for that"
    REFUSE = "there are none, and it is too early to ask again"


class KeySetFreshness:
    """The times of one key set, in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._fetched: float | None = None
        self._asked: float | None = None

    def known(self, now: float) -> KeySetAction:
        """What is done for a token whose key is at hand, or might be."""
        may_ask = self._may_ask(now)
        if self._fetched is None or now >= self._fetched + KEY_SET_STALE:
            return KeySetAction.WAIT if may_ask else KeySetAction.REFUSE
        if now >= self._fetched + KEY_SET_FRESH and may_ask:
            # Where nobody has asked for so long, nobody knows what was withdrawn meanwhile. While
            # the issuer does not answer it is asked often, and nobody waits.
            idle = self._asked is None or now >= self._asked + 2 * KEY_SET_FRESH
            return KeySetAction.WAIT if idle else KeySetAction.REFRESH
        return KeySetAction.USE

    def unknown(self, now: float) -> bool:
        """Whether, for a token whose key is not at hand, it is fetched now."""
        return self._may_ask(now)

    def asked(self, now: float) -> None:
        """The issuer is asked now."""
        self._asked = now

    def answered(self, now: float) -> None:
        """It has answered, with keys."""
        self._fetched = now

    def wait(self, now: float) -> float:
        """After how many seconds it may be asked again."""
        if self._asked is None:
            return 0.0
        return max(0.0, self._asked + KEY_SET_PAUSE - now)

    def _may_ask(self, now: float) -> bool:
        return self.wait(now) <= 0
