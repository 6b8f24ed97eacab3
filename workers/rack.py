"""The engines in this worker's memory: the one that serves, those kept beside it, those whose last jobs still run.

A new job gets the newest engine of its pool, or the one its route names; a job that runs keeps the engine it began
with; an engine that nobody wants and nobody uses is closed. What should be in here is decided in following.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import cast

import msgspec

from reef.ledger.model import JobRecord
from reef.placement.model import model_route
from reef.ports import ChatEngine, Engine, Holder

log = logging.getLogger(__name__)


class Work(msgspec.Struct, frozen=True):
    """What the engines of this worker did since it started."""

    steps: int = 0
    tokens: int = 0
    inferences: int = 0

    def plus(self, other: Work) -> Work:
        """Both together."""
        return Work(self.steps + other.steps, self.tokens + other.tokens, self.inferences + other.inferences)


class Mounted:
    """An engine in memory."""

    def __init__(self, pool: str, name: str, engine: Engine, memory_bytes: int) -> None:
        """`name` is what the model was asked for by; `memory_bytes` what loading it took, 0 where that is unknown."""
        self.pool, self.name, self.engine, self.memory_bytes = pool, name, engine, memory_bytes
        self._chats = isinstance(engine, ChatEngine)
        self._holds = isinstance(engine, Holder)
        self.users = 0
        """Jobs that run on it, and those that may come to."""
        self.wanted = True

    def is_called(self, model: str) -> bool:
        """Whether this is that model."""
        return model in (self.name, self.engine.model)

    def models(self) -> list[str]:
        """What it holds in memory: its own model first, and what it loaded by itself."""
        others = sorted(cast(Holder, self.engine).resident()) if self._holds else []
        return [name for name in (self.engine.model, *others) if name]

    def drop(self, model: str) -> bool:
        """Let go a model that it loaded by itself. True where it did."""
        return self._holds and cast(Holder, self.engine).drop(model)

    def work(self) -> Work:
        """What it did so far."""
        steps = self.engine.steps()
        if self._chats:
            return Work(steps, tokens=cast(ChatEngine, self.engine).tokens())
        return Work(steps, inferences=0 if self.pool == "index" else steps)


class Visit:
    """reef.ports.Visit: until it has its engine, every engine of the pool is held for it."""

    def __init__(self, rack: Rack, pool: str, held: list[Mounted]) -> None:
        self._rack, self._pool = rack, pool
        self.held = held

    def engine(self, job: JobRecord) -> Engine:
        """See reef.ports.Visit."""
        return self._rack.choose(self, self._pool, job.route)


class Rack:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self.on_visit: Callable[[], None] = lambda: None
        """Called when a job comes, before it gets its engine."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when the last job has left an engine that is not wanted any more, when one has been closed, and when
        a job has left other models in memory than it found."""
        self._mounted: list[Mounted] = []
        self._serving: dict[str, Mounted] = {}
        self._past = Work()
        self._closing = 0
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)

    # --- what is in it

    def mount(self, pool: str, name: str, engine: Engine, memory_bytes: int = 0) -> Mounted:
        """Put a loaded engine in. It gets no job before `serve`, unless a route names its model."""
        mounted = Mounted(pool, name, engine, memory_bytes)
        with self._lock:
            self._mounted.append(mounted)
        return mounted

    def find(self, pool: str, model: str) -> Mounted | None:
        """The engine of this pool with that model, the newest first."""
        with self._lock:
            return self._find(pool, model)

    def serving(self, pool: str) -> Mounted | None:
        """The engine that new jobs of this pool get."""
        return self._serving.get(pool)

    def serve(self, mounted: Mounted) -> bool:
        """From now on new jobs of its pool get this engine. False where it has just left: its last job had ended."""
        with self._lock:
            if mounted not in self._mounted:
                return False
            mounted.wanted = True
            self._serving[mounted.pool] = mounted
            return True

    def refuse(self, pool: str) -> None:
        """New jobs of this pool are passed on; what runs goes on."""
        with self._lock:
            self._serving.pop(pool, None)

    def keep(self, pool: str, models: Collection[str]) -> None:
        """Close every engine but those of `pool` with one of these models, each as soon as its last job has ended."""
        with self._lock:
            for mounted in self._mounted:
                mounted.wanted = mounted.pool == pool and any(mounted.is_called(model) for model in models)
        self._close_unused()

    def refuse_all(self) -> None:
        """New jobs of every pool are passed on; what runs goes on."""
        with self._lock:
            self._serving.clear()

    def drop_beside(self) -> bool:
        """Let go every engine that does not serve. True where one was wanted until now, or is not gone yet."""
        with self._lock:
            beside = [one for one in self._mounted if one not in self._serving.values()]
            dropped = any(one.wanted for one in beside)
            for one in beside:
                one.wanted = False
        self._close_unused()
        return dropped

    def serving_pools(self) -> list[str]:
        """Pools whose new jobs are taken."""
        with self._lock:
            return list(self._serving)

    def serving_models(self) -> list[str]:
        """Models that new jobs get."""
        with self._lock:
            return [one.engine.model for one in self._serving.values()]

    def names(self, pool: str) -> set[str]:
        """What the models of this pool that are to stay are called, by places and by themselves."""
        with self._lock:
            mounted = [one for one in self._mounted if one.pool == pool and one.wanted]
        return {name for one in mounted for name in (one.name, one.engine.model)}

    @property
    def is_empty(self) -> bool:
        """Whether no engine is in memory."""
        return not self._mounted and not self._closing

    @property
    def is_closing(self) -> bool:
        """Whether an engine is just leaving the memory."""
        return self._closing > 0

    def models(self, pool: str) -> tuple[str, ...]:
        """Models of this pool in memory that are to stay, the one that serves first."""
        with self._lock:
            serving = self._serving.get(pool)
            there = [serving] if serving else []
            there += [one for one in self._mounted if one.pool == pool and one.wanted]
        return tuple(dict.fromkeys(name for one in there for name in one.models()))

    def drop(self, model: str) -> bool:
        """Let go a model that an engine loaded by itself. True where one did."""
        with self._lock:
            there = list(self._mounted)
        dropped = [one.drop(model) for one in there]
        return any(dropped)

    # --- jobs

    @contextmanager
    def enter(self, pool: str) -> Iterator[Visit | None]:
        """A job of this pool comes. None where the pool is not served."""
        with self._lock:
            if pool not in self._serving:
                visit = None
            else:
                visit = Visit(self, pool, [one for one in self._mounted if one.pool == pool])
                for one in visit.held:
                    one.users += 1
        if visit is None:
            yield None
            return
        self.on_visit()
        before = set(self.models(pool))
        try:
            yield visit
        finally:
            self._leave(visit.held)
            if set(self.models(pool)) != before:
                self.on_change()

    def choose(self, visit: Visit, pool: str, route: str | None) -> Engine:
        """The engine for a job; the others need not be held for it any longer."""
        with self._lock:
            chosen = next((one for one in reversed(visit.held) if route == model_route(one.name)), None)
            chosen = chosen or next(
                (one for one in reversed(visit.held) if route == model_route(one.engine.model)), None
            )
            if chosen is None or not chosen.wanted:
                serving = self._serving.get(pool)
                chosen = serving if serving in visit.held else visit.held[-1]
            others = [one for one in visit.held if one is not chosen]
            visit.held = [chosen]
        self._leave(others)
        return chosen.engine

    def running(self, pool: str | None = None) -> bool:
        """Whether a job of this pool (None: of any) is here."""
        with self._lock:
            return any(one.users for one in self._mounted if pool in (None, one.pool))

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no job is here. False where one still is."""
        with self._idle:
            return self._idle.wait_for(lambda: not any(one.users for one in self._mounted), timeout_s)

    # --- what it did

    def work(self) -> Work:
        """All that was done so far, by engines that are gone too."""
        with self._lock:
            done, mounted = self._past, list(self._mounted)
        for one in mounted:
            done = done.plus(one.work())
        return done

    def steps(self) -> int:
        """Grows with every call the device finished (see LeaseKeeper)."""
        return self.work().steps

    def close(self) -> None:
        """Free the device. Work in flight ends as cancelled."""
        with self._lock:
            mounted, self._mounted = self._mounted, []
            self._serving.clear()
        for one in mounted:
            one.engine.close()

    # --- inside

    def _find(self, pool: str, model: str) -> Mounted | None:
        return next((one for one in reversed(self._mounted) if one.pool == pool and one.is_called(model)), None)

    def _leave(self, held: list[Mounted]) -> None:
        with self._idle:
            for one in held:
                one.users -= 1
            changed = any(not one.users and not one.wanted for one in held)
            if not any(one.users for one in self._mounted):
                self._idle.notify_all()
        if changed:
            self._close_unused()
            self.on_change()

    def _close_unused(self) -> None:
        with self._lock:
            serving = list(self._serving.values())
            unused = [one for one in self._mounted if not one.wanted and not one.users and one not in serving]
            self._mounted = [one for one in self._mounted if one not in unused]
        for one in unused:
            log.info("%s of pool %s leaves the memory", one.engine.model, one.pool)
            done = one.work()
            with self._lock:
                self._past = self._past.plus(done)
                self._closing += 1
            # the last job's thread must not wait for it: its message is acknowledged when it returns
            threading.Thread(target=self._close, args=(one.engine,), name="engine-close", daemon=True).start()

    def _close(self, engine: Engine) -> None:
        try:
            engine.close()
        finally:
            with self._lock:
                self._closing -= 1
            self.on_change()
