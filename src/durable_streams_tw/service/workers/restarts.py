"""Pause before a worker that has ended is started again."""

from __future__ import annotations

from collections import deque

from durable_streams_tw.service.workers import limits


class RestartBackoff:
    """Back-off of one worker: restarts are immediate at first, frequent ones pause."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque()
        self._pause = 0.0

    def pause(self, started: float, ended: float) -> float:
        """Record that the worker ran between two times; return the seconds until its restart."""
        ends = self._ends
        while ends and ends[0] <= ended - limits.RESTART_WINDOW:
            ends.popleft()
        ends.append(ended)
        if ended - started >= limits.RESTART_WINDOW:
            self._pause = 0.0
        if self._pause or len(ends) > limits.QUICK_RESTARTS:
            self._pause = min(max(limits.RESTART_PAUSE, 2 * self._pause), limits.MAX_RESTART_PAUSE)
        return self._pause
