"""Which kind of model a file is, and what it says about itself. Parses nothing: gguf.py and tflite.py do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from reef.models.errors import ModelError
from reef.models.gguf import MAGIC, GgufHead, read_head
from reef.models.tflite import IDENTIFIER, read_tflite

Format = Literal["gguf", "tflite", "onnx", "encoder", "lora"]
SUFFIXES = (".gguf", ".tflite", ".onnx")
"""Of files that are models. An adapter is a .gguf file that says so itself."""
FORMAT_NAMES = {".gguf": "GGUF", ".tflite": "TFLite", ".onnx": "ONNX"}
FIRST_BYTES = 8
"""So many bytes tell what a file is."""

# `general.file_type` of llama.cpp
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip
_ONNX_FIRST = (b"\x08", b"\x0a", b"\x12", b"\x1a", b"\x3a")
"""A protobuf of this kind begins with the tag of one of its first fields."""


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model file says about itself; empty where it says nothing."""

    format: Format
    quantisation: str = ""
    licence: str = ""
    base: str = ""
    """Of an adapter: the model it was made for, in its maker's words."""
    architecture: str = ""


def read_facts(path: Path) -> Facts:
    """What the file is. Raises ModelError where it is damaged, cut short, or no model at all."""
    if path.suffix == ".tflite":
        return Facts("tflite", quantisation=read_tflite(path).quantisation)
    if path.suffix == ".onnx":
        _check_onnx(path)
        return Facts("onnx")
    return _of_gguf(read_head(path, lambda key: key.startswith(("general.", "adapter."))))


def begins_right(first: bytes, suffix: str) -> bool:
    """Whether a file of this suffix may begin with these bytes (FIRST_BYTES of them, or all there are)."""
    if suffix == ".tflite":
        return first[4:8] == IDENTIFIER[: max(0, len(first) - 4)]
    if suffix == ".onnx":
        return first[:1] in _ONNX_FIRST
    return first[:4] == MAGIC[: len(first)]


def _of_gguf(head: GgufHead) -> Facts:
    said = head.metadata
    adapter = said.get("general.type") == "adapter"
    types = sorted(head.tensor_types - {"F32"}) or sorted(head.tensor_types)
    return Facts(
        "lora" if adapter else "gguf",
        quantisation=_FILE_TYPES.get(said.get("general.file_type", -1), ", ".join(types))[:32],
        licence=str(said.get("general.license", ""))[:100],
        base=str(said.get("general.base_model.0.name", ""))[:200] if adapter else "",
        architecture=head.architecture,
    )


def _check_onnx(path: Path) -> None:
    try:
        with path.open("rb") as file:
            first = file.read(FIRST_BYTES)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if not begins_right(first, ".onnx"):
        raise ModelError(f"{path} is not a model in ONNX format. Give an .onnx file.")
