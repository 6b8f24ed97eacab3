"""How much a worker's engines did a second, over the last few: told from their own counters, never estimated."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from workers.rack import Work

WINDOW_S = 5.0
SAMPLES_MAX = 64


class Rates:
    """Asked about once a second, by one thread."""

    def __init__(self, work: Callable[[], Work], clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._clock = work, clock
        self._samples: deque[tuple[float, Work]] = deque(maxlen=SAMPLES_MAX)

    def per_second(self) -> tuple[float, float]:
        """Tokens and inferences a second since the sample that is as old as the window."""
        now, done = self._clock(), self._work()
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()
        then, before = self._samples[0]
        if now <= then:
            return 0.0, 0.0
        tokens = max(0, done.tokens - before.tokens) / (now - then)
        inferences = max(0, done.inferences - before.inferences) / (now - then)
        return round(tokens, 1), round(inferences, 1)
