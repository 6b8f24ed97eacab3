"""How a unit of devices serves several conversations at once: the time of a step and of a prompt. Arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Batching(msgspec.Struct, frozen=True, kw_only=True):
    """One device that computes all its conversations in one step (continuous batching), and prompts before replies."""

    step_fixed_s: float
    step_stream_s: float
    """A step for n conversations takes `step_fixed_s + n * step_stream_s`."""
    prompt_fixed_s: float = 0.0
    prompt_token_s: float = 0.0
    """Prompts that come together take `prompt_fixed_s + tokens * prompt_token_s`; running replies wait meanwhile."""
    streams: int = 8

    def step_s(self, conversations: int) -> float:
        """One token for each of so many conversations."""
        return self.step_fixed_s + conversations * self.step_stream_s

    def prompts_s(self, tokens: Sequence[float]) -> float:
        """Reading these prompts together."""
        return self.prompt_fixed_s + self.prompt_token_s * sum(tokens)

    def tokens_per_s(self, conversations: int) -> float:
        """All conversations together."""
        return conversations / self.step_s(conversations)


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """A model cut over devices: each conversation is at one stage at a time, so as many as equal stages do not disturb.

    All together are as fast as the slowest stage.
    """

    pass_s: float
    stages: int
    prompt_token_s: float = 0.0
    """What each token of a prompt adds to the pass that reads it."""
    streams: int = 1
    slowest_s: float = 0.0
    """Of its stages, of the pass; 0: all take equally long."""

    def slowdown(self, conversations: int) -> float:
        """How much longer everything takes with so many conversations in the pipeline."""
        return max(1.0, conversations * (self.slowest_s or self.pass_s / self.stages) / self.pass_s)

    def busy_share(self, conversations: int) -> float:
        """Of the devices, how many compute with so many conversations."""
        return conversations / (self.stages * self.slowdown(conversations))

    def step_s(self, conversations: int) -> float:
        """One token for each of so many conversations."""
        return self.pass_s * self.slowdown(conversations)

    def prompts_s(self, tokens: Sequence[float]) -> float:
        """Reading one of these prompts alone in the pipeline, the longest."""
        return self.pass_s + self.prompt_token_s * max(tokens, default=0.0)

    def tokens_per_s(self, conversations: int) -> float:
        """All conversations together."""
        return conversations / self.step_s(conversations)


Curve = Batching | Staged
