"""Units of the simulation: devices that hold one copy of a model, and the conversations they serve in virtual time.

Between two changes every conversation goes on at a steady pace, so a unit sleeps until the next one reads its prompt to
the end or says its last word, or until somebody comes or the devices fail. Knows no queue.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import simpy

from reef.planning.curves import Batching, Staged
from reef.planning.strategies import Unit

NOTHING_TOKENS = 1e-9
Steps = Generator[simpy.Event, Any, None]


class Turn:
    """One message and its reply."""

    __slots__ = ("asked", "ended", "first", "persona", "prompt", "queued", "reply", "route", "session", "started")

    def __init__(self, *, session: int, persona: int, route: int, prompt: float, reply: float, asked: float) -> None:
        self.session, self.persona, self.route = session, persona, route
        self.prompt, self.reply, self.asked = prompt, reply, asked
        self.queued: float | None = None
        self.started: float | None = None
        self.first: float | None = None
        self.ended: float | None = None


class _Stream:
    """A turn on its way through a unit."""

    __slots__ = ("before", "prompt_left_s", "reading", "tokens_left", "turn")

    def __init__(self, turn: Turn, prompt_s: float) -> None:
        self.turn, self.prompt_left_s = turn, prompt_s
        self.reading = True
        self.tokens_left = turn.reply
        self.before = 0.0
        """Tokens it had said when counting began: a failure does not take them back from what was counted."""


class ServingUnit:
    """Serves up to `curve.streams` turns at once."""

    def __init__(self, env: simpy.Environment, plan: Unit, ended: Callable[[ServingUnit, Turn], None]) -> None:
        self.env, self.plan, self.curve, self.route = env, plan, plan.curve, plan.route
        self.up = True
        self.draining = False
        self.moved_at = -1e9
        self.taken_at = -1.0
        self.tokens = 0.0
        """Words of replies so far, those of turns that were lost with a device not among them."""
        self.busy_s = 0.0
        """Time in which the devices of this unit computed, each counted for its share."""
        self._ended = ended
        self._live: list[_Stream] = []
        self._wake = env.event()
        self._failures = 0
        self._pace = (0.0, 0.0, 0.0)
        """Since when, tokens per second, and share of the devices that computes: of the sleep that is not over."""
        env.process(self._serve())

    @property
    def room(self) -> bool:
        """Whether it takes another turn now."""
        return self.up and not self.draining and len(self._live) < self.curve.streams

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self._live

    @property
    def running(self) -> int:
        """Turns it works on."""
        return len(self._live)

    def made(self) -> tuple[float, float]:
        """Tokens, and time in which the devices computed, up to this moment."""
        since, tokens_per_s, busy = self._pace
        slept_s = self.env.now - since
        return self.tokens + slept_s * tokens_per_s, self.busy_s + slept_s * busy

    def begin_counting(self) -> None:
        """What is said from now on is counted; what a failure undoes of it is not."""
        since, tokens_per_s, _ = self._pace
        writing = [stream for stream in self._live if not stream.reading]
        for stream in writing:
            slept = (self.env.now - since) * tokens_per_s / len(writing)
            stream.before = stream.turn.reply - stream.tokens_left + slept

    def take(self, turn: Turn) -> None:
        """Begin a turn, or begin it again after a failure."""
        turn.started = self.env.now if turn.started is None else turn.started
        self.taken_at = self.env.now
        self._live.append(_Stream(turn, self.curve.prompts_s([turn.prompt])))
        self._change()

    def fail(self) -> list[Turn]:
        """The devices are gone; gives the turns that must be done again."""
        self.up = False
        self._failures += 1
        lost = [stream.turn for stream in self._live]
        self._pace = (0.0, 0.0, 0.0)
        self.tokens -= sum(s.turn.reply - s.tokens_left - s.before for s in self._live if not s.reading)
        self._live.clear()
        self._change()
        return lost

    def _change(self) -> None:
        wake, self._wake = self._wake, self.env.event()
        wake.succeed()

    def _serve(self) -> Steps:
        while True:
            if not self._live:
                yield self._wake
            elif isinstance(self.curve, Staged):
                yield from self._through_stages(self.curve)
            elif any(stream.reading for stream in self._live):
                yield from self._read_together(self.curve)
            else:
                yield from self._step_together(self.curve)

    def _read_together(self, curve: Batching) -> Steps:
        """All prompts that are there in one go; whoever comes meanwhile waits for the next."""
        reading = [stream for stream in self._live if stream.reading]
        failures = self._failures
        end = self.env.timeout(curve.prompts_s([stream.turn.prompt for stream in reading]))
        began = self.env.now
        self._pace = (began, 0.0, 1.0)
        while not end.processed and failures == self._failures:
            yield end | self._wake
        self._pace = (0.0, 0.0, 0.0)
        self.busy_s += self.env.now - began
        if failures == self._failures:
            for stream in reading:
                self._first_word(stream)
            self._settle()

    def _step_together(self, curve: Batching) -> Steps:
        live, failures = list(self._live), self._failures
        step_s = curve.step_s(len(live))
        elapsed = yield from self._sleep(min(stream.tokens_left for stream in live) * step_s, len(live) / step_s, 1.0)
        if failures == self._failures:
            for stream in live:
                self._say(stream, elapsed / step_s)
            self._settle()

    def _through_stages(self, curve: Staged) -> Steps:
        live, failures = list(self._live), self._failures
        slowdown = curve.slowdown(len(live))
        next_s = min(s.prompt_left_s if s.reading else s.tokens_left * curve.pass_s for s in live)
        writing = sum(not stream.reading for stream in live)
        pace = writing / (curve.pass_s * slowdown)
        elapsed = yield from self._sleep(next_s * slowdown, pace, curve.busy_share(len(live)))
        if failures != self._failures:
            return
        for stream in live:
            if not stream.reading:
                self._say(stream, elapsed / slowdown / curve.pass_s)
                continue
            stream.prompt_left_s -= elapsed / slowdown
            if stream.prompt_left_s <= NOTHING_TOKENS:
                self._first_word(stream)
        self._settle()

    def _sleep(self, wanted_s: float, tokens_per_s: float, busy: float) -> Generator[simpy.Event, Any, float]:
        """Until then or until something changes; gives the time that passed.

        Not from the clock where nothing changed: late in a long run it is too coarse for the last piece of a token.
        """
        began, end = self.env.now, self.env.timeout(wanted_s)
        self._pace = (began, tokens_per_s, busy)
        yield end | self._wake
        elapsed: float = wanted_s if end.processed else self.env.now - began
        self._pace = (0.0, 0.0, 0.0)
        self.busy_s += elapsed * busy
        return elapsed

    def _first_word(self, stream: _Stream) -> None:
        stream.reading = False
        stream.turn.first = self.env.now if stream.turn.first is None else stream.turn.first
        self._say(stream, min(1.0, stream.tokens_left))

    def _say(self, stream: _Stream, tokens: float) -> None:
        said = min(tokens, stream.tokens_left)
        stream.tokens_left -= said
        self.tokens += said

    def _settle(self) -> None:
        """Turns that have come to their end leave."""
        done = [stream for stream in self._live if not stream.reading and stream.tokens_left <= NOTHING_TOKENS]
        for stream in done:
            self._live.remove(stream)
        for stream in done:
            stream.turn.ended = self.env.now
            self._ended(self, stream.turn)
