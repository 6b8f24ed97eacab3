"""The last place this worker saw, on disk: it knows what to load before it can ask the database, and without one.

Kept with it is the model being loaded. A worker that died over one twice does not try it a third time by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from reef.placement.model import Place

log = logging.getLogger(__name__)

DEATHS_MAX = 2
"""Deaths while a model is loaded after which it is left alone until somebody decides anew."""


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds."""

    place: Place | None = None
    loading: str = ""
    """Model that is being loaded beside what queues.yaml names, or was when the worker died."""
    begun: int = 0
    """How often its loading was begun and not ended."""

    def is_deadly(self, model: str) -> bool:
        """Whether this model ended the worker too often."""
        return self.loading == model and self.begun >= DEATHS_MAX


class PlaceFile:
    """Of one node. Read once; written by one thread at a time."""

    def __init__(self, data_dir: Path, node: str) -> None:
        self._path = data_dir / "run" / f"place-{node}.json"
        self.known = self._read()

    def see(self, place: Place | None) -> None:
        """A place was read. A new decision makes a new try of its model."""
        if place != self.known.place:
            self._write(Remembered(place=place))

    def begin(self, model: str) -> None:
        """A model is about to be loaded."""
        before = self.known.begun if self.known.loading == model else 0
        self._write(Remembered(place=self.known.place, loading=model, begun=before + 1))

    def end(self) -> None:
        """Loading it has ended, well or not: it killed nobody."""
        if self.known.loading:
            self._write(Remembered(place=self.known.place))

    def _read(self) -> Remembered:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Remembered)
        except (OSError, msgspec.DecodeError):
            return Remembered()

    def _write(self, known: Remembered) -> None:
        self.known = known
        fresh = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(msgspec.json.encode(known))
            fresh.replace(self._path)
        except OSError as error:
            log.warning("the place of this worker is not remembered: %s", error)
            with contextlib.suppress(OSError):
                fresh.unlink()
