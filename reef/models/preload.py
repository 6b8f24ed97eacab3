"""Keeping the models that are likely to be asked for next in memory, beside those that serve, as far as it reaches.

It looks now and then, in the sweeper process, and only at devices of this machine that belong to a pool for good: a
strategy decides about the others. It changes `resident` in their places and nothing else; workers do the loading.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reef.models.adapters import parts_of
from reef.models.demand import Likely, Turn, predict, recent_turns
from reef.models.fitting import needs_file
from reef.models.keeping import Keeping
from reef.placement.operator import RELEASED
from reef.placement.view import OPERATOR
from reef.topology import CHAT_POOL, Device

LOOK_EVERY_S = 30.0
SHARE_MIN = 0.1
"""A model that is less likely than this is not worth the memory."""
STAYS_FACTOR = 1.5
"""What is in memory counts so much more: two models that are about as likely do not push each other out."""
MEMORY_FACTOR = 1.5
"""Memory a model takes for each byte of its file: weights, and caches of its conversations."""
RESIDENT_MAX = 3
"""Models beside the one that serves, on one device."""
SMALL_MACHINE_BYTES = 8_000_000_000
OPERATOR_S = 3600.0
"""What an operator decided about a device is left alone that long."""
MEMINFO = Path("/proc/meminfo")


class Preloader:
    """Decides about `resident`. One per reef."""

    def __init__(
        self,
        keeping: Keeping,
        allowed_bytes: int,
        *,
        clock: Callable[[], float] = time.time,
        memory: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        """`allowed_bytes` is the setting: -1 decides by this machine's memory, 0 is off. `memory`: whole, free."""
        self._keeping, self._allowed, self._clock = keeping, allowed_bytes, clock
        self._memory = memory or machine_memory
        self._looked_at = float("-inf")

    def look(self) -> int:
        """Decide, if it is time; gives the number of devices about which something was decided."""
        now = self._clock()
        if self._allowed == 0 or now - self._looked_at < LOOK_EVERY_S:
            return 0
        self._looked_at = now
        pool = self._keeping.topology.pools[CHAT_POOL]
        devices = [device for device in pool.devices if _is_here(device) and needs_file(pool, [device])]
        if not devices:
            return 0
        self._keeping.registry.refresh()
        turns = [
            turn if turn.model else Turn(turn.at, pool.model)
            for turn in recent_turns(self._keeping.registry.database, self._clock)
        ]
        likely = predict(turns, now)
        allowed = self._budget() // len(devices)
        return sum(self._decide(pool.node(device), pool.model, likely, allowed, now) for device in devices)

    def _decide(self, node: str, own: str, likely: Sequence[Likely], allowed: int, now: float) -> bool:
        place = self._keeping.serving.places.get(node)
        if place is not None and place.decided_by in (OPERATOR, RELEASED) and now - place.decided_at < OPERATOR_S:
            return False
        serves = place.model if place is not None and place.model else own
        held = place.resident if place is not None else ()
        chosen = self._choose([one for one in likely if one.model != serves], held, allowed)
        if place is None and not chosen:
            return False
        names = ", ".join(f"{one.model} ({one.share:.0%})" for one in chosen)
        reason = f"likely to be asked for next: {names}" if names else "nothing else is likely to be asked for"
        return self._keeping.serving.keep_resident(node, CHAT_POOL, [one.model for one in chosen], reason)

    def _choose(self, likely: Sequence[Likely], held: Sequence[str], allowed: int) -> list[Likely]:
        sizes = {name: record.size_bytes for name, record in self._keeping.registry.all().items() if record.path}
        ranked = sorted(likely, key=lambda one: -one.share * (STAYS_FACTOR if one.model in held else 1.0))
        chosen: list[Likely] = []
        for one in ranked:
            parts = parts_of(one.model)
            if one.share < SHARE_MIN or any(part not in sizes for part in parts) or len(chosen) == RESIDENT_MAX:
                continue  # what is not on disk is not fetched on a guess
            needed = int(sum(sizes[part] for part in parts) * MEMORY_FACTOR)
            if needed <= allowed:
                allowed -= needed
                chosen.append(one)
        return sorted(chosen, key=lambda one: one.model)

    def _budget(self) -> int:
        if self._allowed > 0:
            return self._allowed
        whole, free = self._memory()
        held = {
            part
            for place in self._keeping.serving.places.all().values()
            for name in place.resident
            for part in parts_of(name)
        }
        sizes = {name: record.size_bytes for name, record in self._keeping.registry.all().items()}
        ours = int(sum(sizes.get(part, 0) for part in held) * MEMORY_FACTOR)
        return (free + ours) // 4 if whole >= SMALL_MACHINE_BYTES else 0


def machine_memory() -> tuple[int, int]:
    """Bytes of memory of this machine, and those that are free for programs."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return whole, 0
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    return whole, free


def _is_here(device: Device) -> bool:
    return device.host in ("", socket.gethostname().partition(".")[0].lower())
