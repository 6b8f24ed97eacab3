"""Keeping the claims of one worker alive, and ending their work when it must end.

A lease is renewed only while the device makes progress (its step counter moves): a worker that hangs loses its jobs
even though this thread is well. Stops arrive on a Redis channel (workers/listener.py); the ledger is asked too, since a
channel may miss one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import sqlalchemy.exc

from reef.ledger import Claim, Ledger
from reef.ports import StopReason

log = logging.getLogger(__name__)


class Held:
    """A claim that is being worked on (reef.ports.Hold)."""

    def __init__(self, claim: Claim, progressed: Callable[[], None] = lambda: None) -> None:
        self.claim = claim
        self.progressed = progressed
        self.cancel = threading.Event()
        self.reason: StopReason | None = None

    def end(self, reason: StopReason) -> None:
        """Make the work end at its next token; the first reason stays."""
        if self.reason is None:
            self.reason = reason
            self.cancel.set()


class LeaseKeeper:
    """Watches over all claims of this worker."""

    def __init__(self, ledger: Ledger, owner: str, leases_s: Mapping[str, float], steps: Callable[[], int]) -> None:
        """`leases_s` are those of the pools it may work for; `steps` counts the calls the device has finished."""
        self._ledger, self._owner, self._leases_s, self._steps = ledger, owner, leases_s, steps
        self._shortest_s = min(leases_s.values())
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._work_steps = 0
        self._seen_steps = -1
        self._thread = threading.Thread(target=self._loop, name="leases", daemon=True)
        self._thread.start()

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[Held]:
        """Watch over a claim while its work runs."""
        held = Held(claim, self._count_step)
        with self._lock:
            self._held[claim.job.id] = held
        try:
            yield held
        finally:
            with self._lock:
                self._held.pop(claim.job.id, None)

    @property
    def running(self) -> int:
        """Claims that are being worked on."""
        return len(self._held)

    def _count_step(self) -> None:
        self._work_steps += 1  # one that is lost between two threads costs nothing: the next one counts

    def stop(self, run_id: str) -> None:
        """Somebody asked this run to stop."""
        with self._lock:
            held = self._held.get(run_id)
        if held is not None:
            held.end("stop")

    def fenced(self, run_id: str, token: int) -> None:
        """The run's log refused this claim: another one has taken over."""
        with self._lock:
            held = self._held.get(run_id)
        if held is not None and held.claim.token == token:
            held.end("lost")

    def drain(self) -> None:
        """End all work: its jobs are handed back."""
        for held in self._all():
            held.end("drain")

    def close(self) -> None:
        """Stop renewing."""
        self._closing.set()
        self._thread.join(self._shortest_s)

    def _all(self) -> list[Held]:
        with self._lock:
            return list(self._held.values())

    def _loop(self) -> None:
        while not self._closing.wait(self._shortest_s / 5):
            held = self._all()
            if not held:
                continue
            try:
                self._look_after(held)
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.warning("leases were not renewed: the database does not answer (%s)", error)

    def _look_after(self, held: list[Held]) -> None:
        now = time.time()
        for one in held:
            if one.claim.job.deadline_at < now:
                one.end("deadline")
        stops = self._ledger.stops(self._owner)
        steps = self._steps() + self._work_steps
        if steps != self._seen_steps:
            self._seen_steps = steps
            lost = self._renew(held)
        else:
            lost = set()
        for one in held:
            if one.claim.job.id in lost:
                one.end("lost")
            elif one.claim.job.id in stops:
                one.end("stop")

    def _renew(self, held: list[Held]) -> set[str]:
        """Each for as long as its pool says; the ids of those that were lost."""
        lost: set[str] = set()
        for pool in {one.claim.job.pool for one in held}:
            claims = [one.claim for one in held if one.claim.job.pool == pool]
            lost |= self._ledger.renew(claims, self._leases_s.get(pool, self._shortest_s))
        return lost
