"""Making vectors smaller, at a cost in recall that the bench prints: truncation, PCA, int8, binary. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
_BIT_COUNTS = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


def similarity(left: Vectors, right: Vectors) -> NDArray[np.float32] | float:
    """Cosine similarity: a number for two vectors, a row or matrix when either side has several.

    Raises ValueError where their lengths differ: they are of two models.
    """
    a, b = (np.atleast_2d(np.asarray(side, dtype=np.float32)) for side in (left, right))
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"vectors of {a.shape[-1]} and {b.shape[-1]} dimensions cannot be compared: two models?")
    lengths = [np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (a, b)]
    found = (a / lengths[0]) @ (b / lengths[1]).T
    if np.ndim(left) == 1:
        found = found[0]
    if np.ndim(right) == 1:
        found = found[..., 0]
    return float(found) if np.ndim(found) == 0 else np.asarray(found, dtype=np.float32)


def truncate(vectors: Vectors, dimensions: int, *, normalize: bool = True) -> Vectors:
    """The leading dimensions (Matryoshka). Raises ValueError when there are fewer."""
    if not 1 <= dimensions <= vectors.shape[-1]:
        raise ValueError(f"dimensions is {dimensions}; this model gives 1 to {vectors.shape[-1]}.")
    cut = np.asarray(vectors[..., :dimensions], dtype=np.float32)
    return _unit(cut) if normalize else cut.copy()


@dataclass(frozen=True)
class Pca:
    """The directions in which a sample of vectors differs most."""

    mean: Vectors
    components: Vectors
    """One row a direction, most telling first."""

    @classmethod
    def fit(cls, sample: Vectors, dimensions: int) -> Pca:
        """Learn from a sample of at least `dimensions` vectors of the texts to come."""
        if len(sample) < dimensions:
            raise ValueError(f"{len(sample)} vectors cannot give {dimensions} directions; take a larger sample.")
        mean = sample.mean(axis=0)
        _, _, rows = np.linalg.svd(sample - mean, full_matrices=False)
        return cls(np.asarray(mean, np.float32), np.asarray(rows[:dimensions], np.float32))

    def apply(self, vectors: Vectors) -> Vectors:
        """Vectors in the smaller space, normalised."""
        return _unit(np.asarray((vectors - self.mean) @ self.components.T, dtype=np.float32))

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, mean=self.mean, components=self.components)

    @classmethod
    def load(cls, path: Path) -> Pca:
        with np.load(path, allow_pickle=False) as data:
            return cls(data["mean"], data["components"])


@dataclass(frozen=True)
class Int8:
    """A quarter of the size: each dimension scaled to a byte by ranges learnt from a sample."""

    scale: Vectors

    @classmethod
    def fit(cls, sample: Vectors) -> Int8:
        return cls(np.maximum(np.abs(sample).max(axis=0), 1e-12).astype(np.float32) / np.float32(127))

    def encode(self, vectors: Vectors) -> NDArray[np.int8]:
        return np.asarray(np.clip(np.rint(vectors / self.scale), -127, 127), dtype=np.int8)

    def decode(self, codes: NDArray[np.int8]) -> Vectors:
        return np.asarray(codes * self.scale, dtype=np.float32)


def to_binary(vectors: Vectors) -> NDArray[np.uint8]:
    """One bit a dimension, its sign: a 32nd of the size."""
    return np.packbits(vectors > 0, axis=-1)


def hamming_similarity(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of equal bits between every row of `left` and every row of `right`."""
    rows = [_BIT_COUNTS[right ^ row].sum(axis=1, dtype=np.int32) for row in np.atleast_2d(left)]
    return np.asarray(1 - np.stack(rows) / (8 * right.shape[-1]), dtype=np.float32)


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), dtype=np.float32)
