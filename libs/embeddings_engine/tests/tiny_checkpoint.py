"""Checkpoints of some kilobytes, laid out as a model hub does, with random weights and a real WordPiece tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

MODEL_CACHE = Path(__file__).parents[3] / "build" / "embedding-models"
"""Where the real model is kept between runs."""

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789.,!?"]
WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
WORDS += ["the", "water", "is", "calm", "today", "sea", "wind", "query", "passage", ":"]
HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 4, 64, 130


def write_checkpoint(folder: Path, *, dtype: str = "F32", pooling: str = "mean", seed: int = 0, **config: Any) -> Path:
    """A folder with config, pooling, tokenizer and safetensors; `config` overrides keys of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "vocab_size": len(WORDS),
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": 1e-12,
    } | config
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    prefix = "" if settings["model_type"] == "bert" else "roberta."
    tensors = {prefix + name: value for name, value in _tensors(settings, seed).items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors, dtype))
    return folder


def safetensors(tensors: dict[str, np.ndarray[Any, Any]], dtype: str = "F32") -> bytes:
    """A file of these arrays, in the format's own layout."""
    header, body = {}, b""
    for name, value in tensors.items():
        data = _raw(value, dtype)
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


def _raw(value: np.ndarray[Any, Any], dtype: str) -> bytes:
    value = value.astype("<f4")
    if dtype == "F16":
        return value.astype("<f2").tobytes()
    if dtype == "BF16":
        return (value.view(np.uint32) >> 16).astype("<u2").tobytes()
    return value.tobytes()


def _tensors(settings: dict[str, Any], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]

    def weights(*shape: int) -> np.ndarray[Any, Any]:
        return random.normal(0, 0.2, shape)

    def norm(name: str) -> dict[str, np.ndarray[Any, Any]]:
        return {f"{name}.weight": 1 + weights(hidden), f"{name}.bias": weights(hidden)}

    def dense(name: str, out: int, into: int) -> dict[str, np.ndarray[Any, Any]]:
        return {f"{name}.weight": weights(out, into), f"{name}.bias": weights(out)}

    found = {
        "embeddings.word_embeddings.weight": weights(settings["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": weights(settings["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": weights(2, hidden),
    } | norm("embeddings.LayerNorm")
    for index in range(settings["num_hidden_layers"]):
        at = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            found |= dense(f"{at}.attention.self.{part}", hidden, hidden)
        found |= dense(f"{at}.attention.output.dense", hidden, hidden) | norm(f"{at}.attention.output.LayerNorm")
        found |= dense(f"{at}.intermediate.dense", inner, hidden) | dense(f"{at}.output.dense", hidden, inner)
        found |= norm(f"{at}.output.LayerNorm")
    return found
