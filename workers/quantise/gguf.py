"""A .gguf model in fewer bits: which tensor gets which storage type, as llama.cpp's own program chooses.

Kernels come from the engine (kernels.py), the file from reef/models/gguf_layout.py, perplexity from perplexity.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reef.models.formats import read_facts
from reef.models.gguf_layout import Layout, TensorPlace, Writer, read_layout
from reef.ports import Progress
from workers.quantise.kernels import NAMES, TYPES, Kernels
from workers.quantise.report import QuantiseError, part_of

ROW_ELEMENTS_MAX = 1 << 22
"""Numbers that are held as floats at once, for each thread."""
QUANTISATION_VERSION = 2

# target -> (general.file_type, type of most tensors, type of the sensitive ones)
TARGETS: dict[str, tuple[int, str, str]] = {
    "F16": (1, "F16", "F16"),
    "Q8_0": (7, "Q8_0", "Q8_0"),
    "Q6_K": (18, "Q6_K", "Q6_K"),
    "Q5_K_M": (17, "Q5_K", "Q6_K"),
    "Q5_K_S": (16, "Q5_K", "Q5_K"),
    "Q5_0": (8, "Q5_0", "Q5_0"),
    "Q4_K_M": (15, "Q4_K", "Q6_K"),
    "Q4_K_S": (14, "Q4_K", "Q4_K"),
    "Q4_1": (3, "Q4_1", "Q4_1"),
    "Q4_0": (2, "Q4_0", "Q4_0"),
}
BLOCK_OF_K = 256
_WITHOUT_K = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What rows get whose length is no multiple of the K types' block."""
_LEFT_ALONE = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d.weight", "position_embd.weight", "token_types.weight")
_SENSITIVE = ("attn_v.weight", "ffn_down.weight")


def quantise_gguf(source: Path, target: Path, to: str, progress: Progress) -> list[str]:
    """Write `target`; gives notes for a person. Raises QuantiseError and ModelError; then nothing is left behind."""
    check(source, to)
    layout, kernels = read_layout(source), Kernels()
    kinds = [_kind(tensor, layout, to) for tensor in layout.tensors]
    part = part_of(target)
    try:
        _write(source, part, layout, kinds, kernels, TARGETS[to][0], progress)
        read_facts(part)
        part.replace(target)
    except OSError as error:
        raise QuantiseError(f"{target} cannot be written: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)
    return _notes(layout, kinds, to)


def check(source: Path, to: str) -> None:
    """Raises QuantiseError and ModelError for what cannot be done, before anything is."""
    if to not in TARGETS:
        raise QuantiseError(f"A .gguf model can become one of: {', '.join(TARGETS)}. {to!r} is none of them.")
    if read_facts(source).format == "lora":
        raise QuantiseError(f"{source} is an adapter; its base is what takes the room.")


def _notes(layout: Layout, kinds: Sequence[int], to: str) -> list[str]:
    lossy = sorted({NAMES[tensor.kind] for tensor in layout.tensors if NAMES.get(tensor.kind, "?")[0] == "Q"})
    notes = []
    if lossy:
        notes.append(f"The source is quantised already ({', '.join(lossy)}): what it lost then stays lost.")
    odd = sum(NAMES[kind] in _WITHOUT_K.values() for kind in kinds) if "_K" in to else 0
    if odd:
        notes.append(
            f"{odd} of {len(kinds)} tensors got a larger type: their rows are no multiple of {BLOCK_OF_K} numbers."
        )
    return notes


def _kind(tensor: TensorPlace, layout: Layout, to: str) -> int:
    """The storage type of a tensor in the new file."""
    if len(tensor.shape) < 2 or not tensor.name.endswith("weight") or tensor.name.endswith(_LEFT_ALONE):
        return tensor.kind
    _, most, sensitive = TARGETS[to]
    name = most
    names = {other.name for other in layout.tensors}
    if tensor.name == "output.weight" or (tensor.name == "token_embd.weight" and "output.weight" not in names):
        name = most if most in ("F16", "Q8_0") else "Q6_K"  # every token passes here
    elif sensitive != most and tensor.name.endswith(_SENSITIVE) and _wants_more(tensor.name, names):
        name = sensitive
    if name.endswith("_K") and tensor.shape[0] % BLOCK_OF_K:
        name = _WITHOUT_K[name]
    if name.startswith("Q") and tensor.shape[0] % 32:
        return TYPES["F16"]
    return TYPES[name]


def _wants_more(name: str, names: set[str]) -> bool:
    """The first and last eighth of the layers, and every third between: llama.cpp's rule."""
    layers = 1 + max(int(other.split(".")[1]) for other in names if other.startswith("blk."))
    layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _write(
    source: Path,
    part: Path,
    layout: Layout,
    kinds: Sequence[int],
    kernels: Kernels,
    file_type: int,
    progress: Progress,
) -> None:
    data = np.memmap(source, np.uint8, "r")
    sizes = [_size(tensor, kind, kernels) for tensor, kind in zip(layout.tensors, kinds, strict=True)]
    whole, done = sum(tensor.elements for tensor in layout.tensors) or 1, 0
    numbers = {"general.file_type": file_type, "general.quantization_version": QUANTISATION_VERSION}
    with part.open("wb") as file, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        writer = Writer(file, layout, kinds, sizes, numbers)
        for tensor, kind in zip(layout.tensors, kinds, strict=True):
            raw = data[tensor.offset : tensor.offset + _size(tensor, tensor.kind, kernels)]
            made = raw if kind == tensor.kind else _convert(tensor, raw, kind, kernels, threads)
            writer.tensor(made.data)
            done += tensor.elements
            progress(done / whole, f"{tensor.name}: {NAMES.get(tensor.kind, '?')} to {NAMES.get(kind, '?')}")
        file.flush()
        os.fsync(file.fileno())


def _size(tensor: TensorPlace, kind: int, kernels: Kernels) -> int:
    row = tensor.shape[0] if tensor.shape else 1
    return kernels.row_bytes(kind, row) * (tensor.elements // row)


def _convert(
    tensor: TensorPlace, raw: NDArray[np.uint8], kind: int, kernels: Kernels, threads: ThreadPoolExecutor
) -> NDArray[np.uint8]:
    row = tensor.shape[0]
    rows, step = tensor.elements // row, max(1, ROW_ELEMENTS_MAX // row)
    stored = kernels.row_bytes(tensor.kind, row)

    def some(first: int) -> NDArray[np.uint8]:
        count = min(step, rows - first)
        floats = kernels.to_floats(tensor.kind, raw[first * stored : (first + count) * stored], count * row)
        return kernels.quantise(kind, floats.reshape(count, row))

    return np.concatenate(list(threads.map(some, range(0, rows, step))))
