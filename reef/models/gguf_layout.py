"""Where everything is in a .gguf file, and the writing of another one with the same words and other weights."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from reef.models.errors import ModelError
from reef.models.gguf import MAGIC, Reader, read_head

DEFAULT_ALIGNMENT = 32
_UINT32 = 4


class TensorPlace(msgspec.Struct, frozen=True):
    """One tensor: `shape` has the length of a row first."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    """From the beginning of the file."""

    @property
    def elements(self) -> int:
        """Numbers in it."""
        count = 1
        for size in self.shape:
            count *= size
        return count


class Layout(msgspec.Struct, frozen=True):
    """A file's metadata as it stands there, key by key, and its tensors."""

    keys: dict[str, bytes]
    tensors: tuple[TensorPlace, ...]
    alignment: int


def read_layout(path: Path) -> Layout:
    """Raises ModelError where the file is no whole model."""
    read_head(path, lambda _key: False)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = Reader(data)
        reader.take("4sI")
        tensors, keys = reader.count(), reader.count()
        found: dict[str, bytes] = {}
        alignment = DEFAULT_ALIGNMENT
        for _ in range(keys):
            begin = reader.at
            key = reader.text()
            (kind,) = reader.take("I")
            if key == "general.alignment":
                alignment = int(reader.value(kind))
            else:
                reader.skip(kind)
            found[key] = data[begin : reader.at]
        heads = []
        for _ in range(tensors):
            name = reader.text()
            (dimensions,) = reader.take("I")
            shape = reader.take(f"{dimensions}Q")
            heads.append((name, shape, *reader.take("IQ")))
        start = -(-reader.at // alignment) * alignment
        places = tuple(TensorPlace(name, shape, kind, start + offset) for name, shape, kind, offset in heads)
        return Layout(found, places, alignment)


class Writer:
    """A file in the making: the head first, then the tensors one after the other, in the order of the head."""

    def __init__(
        self,
        file: IO[bytes],
        layout: Layout,
        kinds: Sequence[int],
        sizes: Sequence[int],
        numbers: Mapping[str, int],
    ) -> None:
        """`kinds` and `sizes` (bytes) of the tensors as they will be; `numbers` are keys to set."""
        self._file, self._alignment, self._sizes = file, layout.alignment, list(sizes)
        keys = {key: raw for key, raw in layout.keys.items() if key not in numbers}
        keys |= {key: _text(key) + struct.pack("<II", _UINT32, value) for key, value in numbers.items()}
        file.write(MAGIC + struct.pack("<IQQ", 3, len(layout.tensors), len(keys)))
        file.write(b"".join(keys.values()))
        offset = 0
        for tensor, kind, size in zip(layout.tensors, kinds, sizes, strict=True):
            file.write(_text(tensor.name) + struct.pack("<I", len(tensor.shape)))
            file.write(struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, kind, offset))
            offset += -(-size // self._alignment) * self._alignment
        self._pad()

    def tensor(self, data: bytes | memoryview) -> None:
        """The next tensor's bytes. Raises ModelError where they are not as many as the head says."""
        if len(data) != self._sizes.pop(0):
            raise ModelError(f"a tensor became {len(data)} bytes long, which is not what the head of the file says")
        self._file.write(data)
        self._pad()

    def _pad(self) -> None:
        self._file.write(b"\0" * (-self._file.tell() % self._alignment))


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
