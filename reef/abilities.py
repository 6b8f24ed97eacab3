"""What each kind of device can do: the one table from which engines are chosen and devices are given out.

A pool's tasks decide which engines can do them, a device's kind which of those run on it. Only names here: no engine
is imported, and nothing of queues.yaml is read.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

CHAT_POOL = "chat"
ENGINES: dict[str, tuple[str, ...]] = {
    "chat": ("auto", "openvino", "llama", "remote", "simulated"),
    "embed": ("auto", "tflite", "simulated"),
    "index": ("auto", "parser", "simulated"),
    "media": ("auto", "tflite", "simulated"),
    "maintenance": ("auto", "simulated"),
}
"""Engines that can do what the tasks of a pool need."""
SIMULATED = "simulated"
SPEAKS_FOR_ITSELF = ("remote", SIMULATED)
"""Devices of these kinds are their own engine, whatever the pool names."""


class Ability(msgspec.Struct, frozen=True):
    """What a kind of device is for. Processors are for everything and have none."""

    best: tuple[str, ...]
    """Pools it was made for: it goes there before a processor does."""
    also: tuple[str, ...] = ()
    """Pools it can serve under a condition that nobody but the operator knows: a processor goes there first."""
    why_not: str = ""
    """Why it serves no other pool, and what to do."""

    @property
    def pools(self) -> tuple[str, ...]:
        return self.best + self.also


ABILITIES: dict[str, Ability] = {
    # an encoder for it is a file of Google's compiler, which nobody but the operator can bring
    "edgetpu": Ability(
        best=("media",),
        also=("embed",),
        why_not="No engine of pool {pool} uses an Edge TPU: it runs vision and small encoders, no language model "
        "(`coral-reef plan` has the figures). Give it to pool media or embed.",
    ),
    "cuda": Ability(
        best=("chat",), why_not="No engine of pool {pool} uses a GPU: only the llama engine of pool chat does."
    ),
    "remote": Ability(best=("chat",), why_not="A remote server answers chats only: pool {pool} needs another device."),
}
IN_WORDS = (
    "An Edge TPU serves media (and embed, with an encoder compiled for it), a GPU or a remote server chat, a processor "
    "or a simulated device every pool that the program has engines for."
)
BEST, ABLE, CONDITIONAL = 0, 1, 2


def engine_of(pool: str, engine: str, kind: str) -> str:
    """The engine that a device of this kind gets, where its pool names this one."""
    if kind in SPEAKS_FOR_ITSELF:
        return kind
    return "llama" if (kind, pool, engine) == ("cuda", "chat", "auto") else engine


def why_not(pool: str, engine: str, kind: str) -> str:
    """Why a device of this kind cannot serve that pool with the engine it names; empty where it can."""
    if pool not in ENGINES:
        return f"No engine of this version serves pool {pool}: give it `devices: []` in queues.yaml."
    chosen = engine_of(pool, engine, kind)
    if chosen != SIMULATED and kind in ABILITIES and pool not in ABILITIES[kind].pools:
        return ABILITIES[kind].why_not.format(pool=pool)
    if chosen not in ENGINES[pool]:
        known = ", ".join(ENGINES[pool])
        return f"Pool {pool} cannot be served by engine {chosen!r}; queues.yaml may name: {known}."
    return ""


def ranks(kind: str, engines: Iterable[tuple[str, str]]) -> dict[str, int]:
    """The pools (given with their engines) that a device of this kind can serve; BEST before ABLE before CONDITIONAL.

    What a simulated engine serves is no ability of the device: everything is as good there.
    """
    found = {}
    for pool, engine in engines:
        if not why_not(pool, engine, kind):
            ability = None if engine_of(pool, engine, kind) == SIMULATED else ABILITIES.get(kind)
            found[pool] = ABLE if ability is None else BEST if pool in ability.best else CONDITIONAL
    return found
