"""Pictures as a model's input, and its answer as labels. Reads pictures of five formats, nothing else.

Numbers follow the models there are: uint8 takes the picture's bytes as they are, int8 the same moved by 128, float32
what Keras' classifiers were trained on, -1 to 1.
"""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from reef.inference.tensors import dequantise, describe
from reef.ports import EngineRefused, ModelFacts, TensorSpec

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
PIXELS_MAX = 50_000_000
SIDE_MAX = 30_000


class Label(msgspec.Struct, frozen=True):
    """A class and how sure the model is of it: the number it gave, as the value it stands for."""

    label: str
    index: int
    score: float


def check_classifier(facts: ModelFacts) -> None:
    """Raises EngineRefused where a model does not answer one picture by one row of scores."""
    reads = len(facts.inputs) == 1 and _picture_shape(facts.inputs[0]) is not None
    writes = len(facts.outputs) == 1 and int(np.prod(facts.outputs[0].shape)) == max(facts.outputs[0].shape, default=0)
    if not reads or not writes:
        inputs, outputs = (", ".join(describe(spec) for spec in some) for some in (facts.inputs, facts.outputs))
        raise EngineRefused(
            f"{facts.name} is no classifier of pictures: it reads {inputs} and writes {outputs}. "
            "Send tensors to /api/v1/inference instead."
        )


def as_input(data: bytes, spec: TensorSpec, where: str) -> NDArray[Any]:
    """A picture file in the size and kind of numbers that the model reads. Raises EngineRefused."""
    shape = _picture_shape(spec)
    if shape is None:
        raise EngineRefused(f"{where}: {describe(spec)} is no picture.")
    height, width, channels = shape
    mode = "RGB" if channels == 3 else "L"
    pixels = np.asarray(_read(data, mode, (width, height), where), dtype=np.uint8).reshape(spec.shape)
    if spec.dtype == "int8":
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    if spec.dtype == "float32":
        return ((pixels.astype(np.float32) - 127.5) / 127.5).astype(np.float32)
    return pixels


def best_labels(facts: ModelFacts, output: NDArray[Any], top_k: int) -> list[Label]:
    """The classes a model is most sure of, best first."""
    scores = dequantise(output, facts.outputs[0]).reshape(-1)
    best = np.argsort(-scores, kind="stable")[:top_k]
    names = facts.labels
    return [
        Label(names[index] if index < len(names) else str(index), int(index), round(float(scores[index]), 6))
        for index in best
    ]


def _picture_shape(spec: TensorSpec) -> tuple[int, int, int] | None:
    """Height, width, channels; None where this tensor can be no picture."""
    if spec.dtype not in ("uint8", "int8", "float32") or len(spec.shape) not in (3, 4) or spec.shape[0] != 1:
        return None
    height, width = spec.shape[1:3]
    channels = spec.shape[3] if len(spec.shape) == 4 else 1
    return (height, width, channels) if channels in (1, 3) and height > 0 and width > 0 else None


def _check_size(picture: Image.Image, where: str) -> None:
    width, height = picture.size
    if width * height > PIXELS_MAX or max(width, height) > SIDE_MAX:
        raise EngineRefused(f"{where} has {width} x {height} pixels; {PIXELS_MAX} are read, and {SIDE_MAX} a side.")


def _read(data: bytes, mode: str, size: tuple[int, int], where: str) -> Image.Image:
    try:
        # our own bound, looked at before anything is decoded, takes the place of Pillow's warning
        Image.MAX_IMAGE_PIXELS = None
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(picture, where)
            picture.draft(mode, size)  # a JPEG is decoded no larger than needed
            return ImageOps.exif_transpose(picture).convert(mode).resize(size, Image.Resampling.BILINEAR)
    except EngineRefused:
        raise
    except Exception as error:
        known = ", ".join(FORMATS)
        raise EngineRefused(f"{where} cannot be read as a picture ({known}): {error}.") from error
