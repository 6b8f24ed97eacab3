"""In which order a worker asks its queues. kombu keeps them in a set, so its own `priority` order is left to chance."""

from __future__ import annotations

from collections.abc import Iterable

from reef import keys


class OwnFirst:
    """kombu's queue cycle (kombu.utils.scheduling): never rotated, sorted by what the queues are for."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self.items: list[str] = []
        self.update(names or ())

    def update(self, names: Iterable[str]) -> None:
        """The queues that are consumed from now on."""
        self.items = sorted(names, key=lambda name: (keys.queue_rank(name), name))

    def consume(self, n: int) -> list[str]:
        """The first `n`."""
        return self.items[:n]

    def rotate(self, last_used: str) -> str:
        """Nothing changes places."""
        return last_used
