"""Retry policy: exponential backoff with jitter, and its limits."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from durable_streams_tw.client.errors import ClientError, InvalidArgument


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """Policy by which transient errors are retried.

    ``retry_for`` is the maximum duration of consecutive failures in seconds: 0 disables retries,
    None sets no limit. ``max_retries`` limits their number. Delays grow from ``initial_delay`` to
    ``max_delay`` (seconds) by the factor ``multiplier``. Without ``wait_for_server``, a connection
    that cannot be established is retried only after the server has responded once. Raises
    `InvalidArgument` for values out of range.
    """

    retry_for: float | None = 30.0
    max_retries: int | None = None
    initial_delay: float = 0.1
    max_delay: float = 10.0
    multiplier: float = 2.0
    wait_for_server: bool = True

    def __post_init__(self) -> None:
        for name, valid, rule in (
            ("retry_for", self.retry_for is None or self.retry_for >= 0, "not negative"),
            ("max_retries", self.max_retries is None or self.max_retries >= 0, "not negative"),
            ("initial_delay", self.initial_delay > 0, "positive"),
            ("max_delay", self.max_delay >= self.initial_delay, "at least initial_delay"),
            ("multiplier", self.multiplier >= 1, "at least 1"),
        ):
            if not valid:
                raise InvalidArgument(name, f"must be {rule}, not {getattr(self, name)}")


class RetryEvent(Struct, frozen=True):
    """Failed attempt that will be repeated after ``delay`` seconds.

    ``attempt`` counts the failures since the last success, from 1.
    """

    error: ClientError
    attempt: int
    delay: float


class Backoff:
    """Delays of one operation. A success resets them and the limits.

    ``seconds`` returns a monotonic time in seconds, ``random`` a number from 0 to 1.
    """

    def __init__(
        self, policy: RetryPolicy, seconds: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self._policy = policy
        self._seconds = seconds
        self._random = random
        self.succeeded()

    def succeeded(self) -> None:
        """Record a successful attempt: reset the delay and the limits."""
        self._since: float | None = None
        self._pause = self._policy.initial_delay
        self.failures = 0

    def failed(self, asked: float = 0.0) -> float | None:
        """Record a failed attempt; return the delay before the next one in seconds.

        Return None if a limit forbids that attempt. ``asked`` is the minimum delay that the server
        asks for (Retry-After), in seconds.
        """
        now = self._seconds()
        if self._since is None:
            self._since = now
        self.failures += 1
        policy = self._policy
        # Without jitter, all clients of a restarted server would reconnect at the same moment.
        pause = max(asked, self._pause * (0.5 + self._random() / 2))
        self._pause = min(self._pause * policy.multiplier, policy.max_delay)
        if policy.retry_for is not None and now - self._since + pause > policy.retry_for:
            return None
        if policy.max_retries is not None and self.failures > policy.max_retries:
            return None
        return pause
