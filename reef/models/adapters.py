"""Names of models with adapters: `base+adapter`, each with a scale of its own if wanted: `base+adapter@0.5`.

An adapter is a small .gguf file (LoRA) that changes what a model says. It lies beside the models and is listed there.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from reef.models.errors import ModelError
from reef.models.formats import Facts

ADAPTERS_MAX = 8
SCALE_MAX = 10.0
_PART = re.compile(r"^(?P<name>[^+@]+)(?:@(?P<scale>\d+(?:\.\d+)?))?$")


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter on disk. `scale` 0 leaves the model as it is."""

    name: str
    path: Path
    sha256: str
    scale: float = 1.0


def split_name(name: str) -> tuple[str, list[tuple[str, float]]]:
    """The model and its adapters with their scales. Raises ModelError for a name that cannot be meant."""
    if "/" in name and Path(name).expanduser().is_file():
        return name, []  # a path may hold any character
    base, *rest = name.split("+")
    if not rest:
        return name, []
    adapters = []
    for text in rest:
        part = _PART.match(text)
        if part is None or not base or float(part["scale"] or 1) > SCALE_MAX:
            raise ModelError(
                f"{name!r}: expected MODEL+ADAPTER or MODEL+ADAPTER@SCALE, with a scale from 0 to {SCALE_MAX:g}."
            )
        adapters.append((part["name"], float(part["scale"] or 1)))
    if len(adapters) > ADAPTERS_MAX or len({adapter for adapter, _ in adapters}) < len(adapters):
        raise ModelError(f"{name!r}: at most {ADAPTERS_MAX} adapters, each once.")
    return base, adapters


def parts_of(name: str) -> list[str]:
    """Every file's name that this name stands for; a name that cannot be meant stands for itself."""
    try:
        base, adapters = split_name(name)
    except ModelError:
        return [name]
    return [base, *(adapter for adapter, _ in adapters)]


def check_match(adapter: Facts, adapter_path: Path, base: Facts, base_path: Path) -> None:
    """Raises ModelError where the two cannot belong together."""
    if adapter.format != "lora":
        raise ModelError(f"{adapter_path} is a model, not an adapter: it cannot be added to {base_path.stem}.")
    if base.format != "gguf" or adapter.architecture != base.architecture:
        made_for = adapter.base or f"a {adapter.architecture} network"
        raise ModelError(
            f"The adapter {adapter_path.stem} was made for {made_for}; {base_path.stem} is "
            f"{base.architecture or base.format}."
        )
