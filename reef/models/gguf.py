"""Reading the head of a .gguf file: its metadata and the list of its tensors. Never reads or touches weights.

Plain Python on purpose: a web or command-line process checks a model without loading numpy or an engine.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from reef.models.errors import Damaged, ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ITEMS_MAX = 1 << 24
"""Longest array and largest count believed: a broken length must not eat the memory."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# tensor type -> (elements in a block, bytes of a block); a type that is missing here is not checked for truncation
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 30: (1, 2),
}  # fmt: skip
TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 30: "BF16",
}  # fmt: skip


class GgufHead(msgspec.Struct, frozen=True):
    """What a model file says about itself."""

    metadata: dict[str, Any]
    tensor_types: frozenset[str]
    """Names of the storage types in use, such as Q4_K."""
    parameters: int = 0
    """Elements of all tensors."""

    @property
    def architecture(self) -> str:
        """Family of the network: llama, qwen2, gemma3 and so on."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def context_tokens(self) -> int:
        """Longest context the model was made for; 0 where the file does not say."""
        return int(self.metadata.get(f"{self.architecture}.context_length", 0))

    @property
    def chat_template(self) -> str:
        """The template of its conversations; empty for models that cannot chat."""
        return str(self.metadata.get("tokenizer.chat_template", ""))


class Reader:
    """Reads the head of a file from front to back."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def count(self) -> int:
        (value,) = self.take("Q")
        if value > ITEMS_MAX:
            raise ValueError(f"a length of {value}")
        return int(value)

    def text(self) -> str:
        length = self.count()
        if self.at + length > len(self.data):
            raise ValueError("a text beyond its end")
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", "replace")

    def skip(self, kind: int) -> None:
        """Pass over a value; long vocabularies are not built when nobody asked for them."""
        if kind == _STRING:
            length = self.count()  # moves `at` itself
            self.at += length
        elif kind == _ARRAY:
            (item,) = self.take("I")
            length = self.count()
            if item in _SCALARS:
                self.at += struct.calcsize("<" + _SCALARS[item]) * length
            else:
                for _ in range(length):
                    self.skip(item)
        else:
            self.take(_SCALARS[kind])

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            (item,) = self.take("I")
            length = self.count()
            if item in _SCALARS:
                return list(self.take(f"{length}{_SCALARS[item]}"))
            return [self.value(item) for _ in range(length)]
        return self.take(_SCALARS[kind])[0]


def read_head(path: Path, wanted: Callable[[str], bool] | None = None) -> GgufHead:
    """Read the metadata (only the keys that `wanted` accepts) and check that the file is whole.

    Raises ModelError for a file that is no model, is of an unknown version, is cut short, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise ModelError(f"{path} is not a model in GGUF format. Give a .gguf file.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, Reader(data), wanted)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise Damaged(path, "is damaged or cut short") from error


def _parse(path: Path, reader: Reader, wanted: Callable[[str], bool] | None) -> GgufHead:
    _, version = reader.take("4sI")
    if version not in VERSIONS:
        raise ModelError(f"{path} has GGUF version {version}; versions 2 and 3 are understood.")
    tensors, keys = reader.count(), reader.count()
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = reader.text()
        (kind,) = reader.take("I")
        if wanted is None or key == "general.alignment" or wanted(key):
            metadata[key] = reader.value(kind)
        else:
            reader.skip(kind)
    types, parameters, end = _tensors(reader, tensors)
    align = int(metadata.get("general.alignment", 32))
    needed = -(-reader.at // align) * align + end
    if tensors and needed > len(reader.data):
        raise Damaged(path, f"is cut short: {len(reader.data)} bytes of {needed}")
    return GgufHead(metadata, types, parameters)


def _tensors(reader: Reader, count: int) -> tuple[frozenset[str], int, int]:
    types, parameters, end = set(), 0, 0
    for _ in range(count):
        reader.skip(_STRING)
        (dimensions,) = reader.take("I")
        shape = reader.take(f"{dimensions}Q")
        kind, offset = reader.take("IQ")
        types.add(TENSOR_TYPES.get(kind, f"type {kind}"))
        elements = 1
        for size in shape:
            elements *= size
        parameters += elements
        block, block_bytes = _BLOCKS.get(kind, (1, 0))
        end = max(end, offset + elements // block * block_bytes)
    return frozenset(types), parameters, end
