"""What a worker asks the process that opens a device for the first time, and what that process answers."""

from __future__ import annotations

import msgspec


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Open this device once."""

    library: str
    bus: str = ""
    device: str = ""
    """What to ask the library for where it cannot list its devices; empty: only load the library and list them."""
    meant: str = ""
    """The entry of /sys that should be opened: looked up in the library's own list."""
    root: str = "/"


class Listed(msgspec.Struct, frozen=True):
    """One device in the library's own list."""

    bus: str
    path: str


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    problem: str = ""
    """A sentence; empty where the device was opened."""
    exact: bool = False
    """Another number could not do better: the library lists its devices, or it does not work at all."""
    device: str = ""
    """What was asked for."""
    held: tuple[str, ...] = ()
    """Entries of /sys that the process held while it was open; empty where nothing tells."""
    runtime: str = ""
    listed: tuple[Listed, ...] | None = None
    """None: this library cannot list its devices."""
