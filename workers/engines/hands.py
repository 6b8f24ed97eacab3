"""The engine of a pool whose jobs compute nothing: they fetch, check and tidy. There is nothing to load."""

from __future__ import annotations

from reef.ports import Progress


class Hands:
    """reef.ports.Engine without a model. What its jobs get done they count themselves (reef.ports.Hold)."""

    name = "hands"
    model = ""

    def load(self, progress: Progress) -> None:
        """Nothing."""
        progress(1.0, "")

    def steps(self) -> int:
        """None of its own."""
        return 0

    def close(self) -> None:
        """Nothing."""
