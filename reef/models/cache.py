"""The models on disk as a cache of limited size: beginnings of models that nobody fetches any more go first, then what
was not used for the longest time.

Never goes: what a device has in memory or should load, what is pinned, what queues.yaml or a setting names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from reef.models.errors import ModelError
from reef.models.fetch import SPARE_BYTES
from reef.models.packages import free_bytes
from reef.models.store import ModelStore

log = logging.getLogger(__name__)


class Removed(msgspec.Struct, frozen=True):
    """A model that had to go, or what had come of one."""

    name: str
    size_bytes: int
    partial: bool = False


class ModelCache:
    """Makes room in one data directory."""

    def __init__(self, store: ModelStore, limit_bytes: int) -> None:
        """`limit_bytes` 0: only the disk is a limit."""
        self.store, self.limit_bytes = store, limit_bytes

    def room_maker(
        self,
        kept: Callable[[], Mapping[str, str]],
        used_at: Callable[[], Mapping[str, float]],
        removed: Callable[[Removed], None],
    ) -> Callable[[int], None]:
        """For ModelStore.pull. `kept` gives what must stay, with the reason; `used_at` is asked for the rest.

        They are asked when room is needed, not before: what is loaded meanwhile stays.
        """

        def make_room(more_bytes: int) -> None:
            for one in self.make_room(more_bytes, kept(), used_at()):
                removed(one)

        return make_room

    def make_room(self, more_bytes: int, kept: Mapping[str, str], used_at: Mapping[str, float]) -> list[Removed]:
        """Take models away until so many bytes fit; nothing is taken where that would not be enough.

        Raises ModelError with what keeps the others.
        """
        sizes = {name: path.stat().st_size for name, path in self.store.files().items()}
        parts = self.store.parts.all()
        held = sum(sizes.values()) + sum(part.have_bytes for part in parts.values())
        short = self._short(more_bytes, held)
        if short <= 0:
            return []
        begun = [name for name in sorted(parts, key=lambda name: parts[name].begun_at) if not parts[name].busy]
        oldest_first = sorted(set(sizes) - set(kept), key=lambda name: (used_at.get(name, 0.0), name))
        going = [Removed(name, parts[name].have_bytes, partial=True) for name in begun if name not in kept]
        going += [Removed(name, sizes[name]) for name in oldest_first]
        chosen: list[Removed] = []
        while going and sum(one.size_bytes for one in chosen) < short:
            chosen.append(going.pop(0))
        if sum(one.size_bytes for one in chosen) < short:
            raise ModelError(self._refusal(more_bytes, sizes, kept))
        return [self._remove(one) for one in chosen]

    def _short(self, more_bytes: int, held_bytes: int) -> int:
        of_limit = held_bytes + more_bytes - self.limit_bytes if self.limit_bytes else 0
        return max(of_limit, more_bytes + SPARE_BYTES - free_bytes(self.store.folder))

    def _remove(self, one: Removed) -> Removed:
        if not one.partial:
            self.store.remove(one.name)
        else:
            with self.store.parts.try_lock(one.name) as free:
                if free:
                    self.store.parts.remove(one.name)
        what = "the beginning of model" if one.partial else "model"
        log.info("%s %s (%.0f MB) was removed: room was needed", what, one.name, one.size_bytes / 1e6)
        return one

    def _refusal(self, more_bytes: int, sizes: Mapping[str, int], kept: Mapping[str, str]) -> str:
        why = "; ".join(f"{name} {kept[name]}" for name in sorted(sizes) if name in kept) or "there is none"
        limit = f"REEF_MODEL_CACHE_BYTES is {self.limit_bytes / 1e6:.0f} MB, " if self.limit_bytes else ""
        return (
            f"No room for {more_bytes / 1e6:.0f} MB more: {limit}{sum(sizes.values()) / 1e6:.0f} MB are models, "
            f"{free_bytes(self.store.folder) / 1e6:.0f} MB of the disk are free, and not enough models may go "
            f"({why}). Unload or unpin one, or raise the limit."
        )


def reasons(
    loaded: Sequence[str], placed: Sequence[str], pinned: Sequence[str], named: Sequence[str]
) -> dict[str, str]:
    """What must stay, each with the reason in words."""
    found: dict[str, str] = {}
    for names, why in (
        (named, "is named in queues.yaml"),
        (pinned, "is pinned"),
        (placed, "is to be loaded"),
        (loaded, "is in a device's memory"),
    ):
        found |= dict.fromkeys(names, why)
    return found
