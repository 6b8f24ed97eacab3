"""Reading a BERT-family checkpoint as it lies on a model hub: config, pooling and safetensors. Data only, no code run.

What a number means for the graph is decided here once; `encoder.py`, `tflite.py` and `onnx.py` only compute.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embeddings_engine.errors import ModelUnavailable

Array = NDArray[np.float32]
Pooling = Literal["mean", "cls"]

HEADER_BYTES_MAX = 100 << 20
"""A safetensors header is some kilobytes; a larger one is a damaged or hostile file."""
_POSITION_SHIFT = {"bert": 0, "roberta": 2, "xlm-roberta": 2, "camembert": 2}
"""RoBERTa counts positions from the padding id + 1, which is 2 in every published checkpoint."""
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


@dataclass(frozen=True)
class Shape:
    """The dimensions of an encoder and how a vector is made from its last layer."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    """Longest sequence, special tokens included."""
    epsilon: float
    activation: str
    pooling: Pooling

    @property
    def head(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True)
class Linear:
    """`y = x @ weight.T + bias`, the weight stored output first, as checkpoints do."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class Norm:
    """Layer normalisation's affine part."""

    gain: Array
    bias: Array


@dataclass(frozen=True)
class Layer:
    """One transformer block, normalised after each half."""

    query: Linear
    key: Linear
    value: Linear
    attended: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm


@dataclass(frozen=True)
class Checkpoint:
    """An encoder in memory, as float32."""

    shape: Shape
    words: Array
    places: Array
    """Position and token-type embeddings summed: one row per position."""
    embedding_norm: Norm
    layers: tuple[Layer, ...]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read `config.json`, the pooling settings and `model.safetensors`. Raises ModelUnavailable."""
    config = _json(folder / "config.json")
    shape, shift = _shape(config, _pooling(folder), folder)
    tensors = _Tensors(folder / "model.safetensors")
    words = tensors.get("embeddings.word_embeddings.weight")
    positions = tensors.get("embeddings.position_embeddings.weight")[shift : shift + shape.positions]
    types = tensors.get("embeddings.token_type_embeddings.weight")
    return Checkpoint(
        shape=shape,
        words=words,
        places=positions + types[0],
        embedding_norm=tensors.norm("embeddings.LayerNorm"),
        layers=tuple(_layer(tensors, f"encoder.layer.{index}") for index in range(shape.layers)),
    )


def _layer(tensors: _Tensors, at: str) -> Layer:
    return Layer(
        query=tensors.linear(f"{at}.attention.self.query"),
        key=tensors.linear(f"{at}.attention.self.key"),
        value=tensors.linear(f"{at}.attention.self.value"),
        attended=tensors.linear(f"{at}.attention.output.dense"),
        attention_norm=tensors.norm(f"{at}.attention.output.LayerNorm"),
        up=tensors.linear(f"{at}.intermediate.dense"),
        down=tensors.linear(f"{at}.output.dense"),
        output_norm=tensors.norm(f"{at}.output.LayerNorm"),
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{path} is missing. Copy the whole folder of the model, not only its weights."
        ) from error
    except ValueError as error:
        raise ModelUnavailable(f"{path} is not JSON ({error}). Fetch the model again.") from error


def _shape(config: Any, pooling: Pooling, folder: Path) -> tuple[Shape, int]:
    kind = config.get("model_type", "bert")
    if kind not in _POSITION_SHIFT:
        raise ModelUnavailable(
            f"{folder} holds a {kind!r} model; this builder knows {', '.join(sorted(_POSITION_SHIFT))}. "
            "Use the onnx or sentence-transformers backend for it."
        )
    activation = config.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS or config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelUnavailable(f"{folder}/config.json asks for an activation or positions this builder does not know.")
    shift = _POSITION_SHIFT[kind]
    try:
        shape = Shape(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"] - shift,
            epsilon=config.get("layer_norm_eps", 1e-12),
            activation=_ACTIVATIONS[activation],
            pooling=pooling,
        )
    except KeyError as error:
        raise ModelUnavailable(f"{folder}/config.json lacks {error}.") from error
    return shape, shift


def _pooling(folder: Path) -> Pooling:
    """What `1_Pooling/config.json` says; the mean where a model does not say, as sentence-transformers does."""
    if (folder / "modules.json").exists():
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in _json(folder / "modules.json")]
        if unknown := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
            raise ModelUnavailable(
                f"{folder} has a {unknown[0]} layer after the encoder, which this builder does not know."
            )
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return "mean"
    config = _json(path)
    chosen = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    if chosen == ["pooling_mode_cls_token"]:
        return "cls"
    if chosen == ["pooling_mode_mean_tokens"]:
        return "mean"
    raise ModelUnavailable(f"{path} asks for {chosen or 'no pooling'}; mean and cls are supported.")


class _Tensors:
    """The named arrays of one safetensors file, read on demand from a memory map."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._data = np.memmap(path, dtype=np.uint8, mode="r")
            size = int.from_bytes(self._data[:8].tobytes(), "little")
            self._header = json.loads(self._data[8 : 8 + min(size, HEADER_BYTES_MAX)].tobytes())
        except FileNotFoundError as error:
            raise ModelUnavailable(f"{path} is missing; the builder reads safetensors only.") from error
        except ValueError as error:
            raise ModelUnavailable(f"{path} is not a safetensors file ({error}). Fetch it again.") from error
        self._start = 8 + size
        self._prefix = next(
            (p for p in ("", "bert.", "roberta.") if f"{p}embeddings.LayerNorm.weight" in self._header), ""
        )

    def get(self, name: str) -> Array:
        entry = self._header.get(self._prefix + name)
        if entry is None:
            raise ModelUnavailable(f"{self._path} has no tensor {name!r}: not a BERT-family encoder.")
        first, last = entry["data_offsets"]
        raw = self._data[self._start + first : self._start + last]
        if raw.size != last - first:
            raise ModelUnavailable(f"{self._path} ends before {name!r} does: it was cut off. Fetch it again.")
        return _as_float32(raw, entry["dtype"]).reshape(entry["shape"])

    def linear(self, name: str) -> Linear:
        return Linear(self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def norm(self, name: str) -> Norm:
        return Norm(self.get(f"{name}.weight"), self.get(f"{name}.bias"))


def _as_float32(raw: NDArray[np.uint8], dtype: str) -> Array:
    data = raw.tobytes()
    if dtype == "F32":
        return np.frombuffer(data, dtype="<f4")
    if dtype == "F16":
        return np.frombuffer(data, dtype="<f2").astype(np.float32)
    if dtype == "BF16":
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    raise ModelUnavailable(f"weights of type {dtype} are not supported; F32, F16 and BF16 are.")
