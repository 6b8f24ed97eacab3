"""What the OpenVINO engine derives from a .gguf file, kept beside the models so that a start takes a second.

    models/cache/KEY/   openvino_model.xml .bin     the network, simplified
                        openvino_tokenizer.*        and detokenizer
                        vocabulary.msgpack          the bytes of each token
                        blob/                       the network compiled for this CPU and number of threads
                        manifest.json               what the above should be; written last

KEY names everything it depends on: the file's SHA-256, the OpenVINO version, the CPU, the threads. A directory without
a manifest, or which is not what its manifest says, is thrown away and made again. It is made where it stays: the
compiled network is found again only under the path it was compiled at.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import msgspec

from reef.models import ModelFile
from reef.ports import EngineError, Progress
from workers.devices import cpu

log = logging.getLogger(__name__)

FORMAT = 3
"""Raised whenever openvino_convert writes something else than before, or compiles it with other properties."""
CONVERT_TIMEOUT_S = 1800.0
ERROR_TAIL_CHARS = 600


class UnreadableModelError(EngineError):
    """OpenVINO cannot use this file; another engine may."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a prepared directory holds."""

    format: int
    folder: str
    """Where it was made; a data directory that was moved is prepared anew."""
    files: dict[str, int]
    """Size of every file, by its path below the directory."""
    blob: bool
    """Whether this OpenVINO really loads what it compiled (2026.3 to 2026.4.1 write the blob and cannot read it)."""
    end_ids: list[int]
    context_tokens: int
    kv_bytes_per_token: int


class Step(msgspec.Struct, frozen=True):
    """One line of openvino_convert's output."""

    share: float
    note: str


def prepared(model: ModelFile, threads: int, progress: Progress) -> tuple[Path, Manifest]:
    """The directory for this model on this machine, made now if it is not there.

    Raises UnreadableModelError when OpenVINO cannot use the file, EngineError for anything else.
    """
    # by its real name: several data directories may link to one directory of models
    folder = model.cache_dir.resolve() / _key(model, threads)
    manifest = _valid(folder)
    if manifest is not None:
        return folder, manifest
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be making it
            manifest = _valid(folder)
            if manifest is None:
                manifest = _make(model, threads, folder, progress)
    except OSError as error:
        raise EngineError(
            f"{model.name} cannot be prepared in {model.cache_dir}: {error.strerror}. It needs a writable disk "
            f"with room for about {3 * model.size_bytes / 1e6:.0f} MB."
        ) from error
    return folder, manifest


def discard(folder: Path) -> None:
    """Throw a prepared directory away: it looked right and did not load."""
    shutil.rmtree(folder, ignore_errors=True)


def _make(model: ModelFile, threads: int, folder: Path, progress: Progress) -> Manifest:
    discard(folder)
    folder.mkdir()
    _convert(model, threads, folder, progress)
    manifest = _valid(folder)
    if manifest is None:
        raise EngineError(f"{folder} was just made and is already incomplete. Is the disk full?")
    for old in folder.parent.glob(f"{model.sha256[:20]}-*"):
        if old.name.split("-")[1:3] != folder.name.split("-")[1:3]:  # of another version; none here can use it
            discard(old)
    return manifest


def _convert(model: ModelFile, threads: int, folder: Path, progress: Progress) -> None:
    """In a process of its own: it needs several times the model's memory, and a broken file may crash it."""
    command = [sys.executable, "-m", "workers.engines.openvino_convert", str(model.path), str(folder), str(threads)]
    log.info("preparing %s for OpenVINO, once", model.name)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            try:
                for line in process.stdout:
                    with contextlib.suppress(msgspec.DecodeError):  # the library prints, too
                        step = msgspec.json.decode(line, type=Step)
                        progress(step.share, f"Preparing {model.name}, this once: {step.note}")
                process.wait(CONVERT_TIMEOUT_S)
            finally:
                process.kill()
        if process.returncode:
            errors.seek(0)
            reason = errors.read()[-ERROR_TAIL_CHARS:].strip()
            raise UnreadableModelError(
                f"OpenVINO cannot prepare {model.name} (exit {process.returncode}): {reason}. "
                "Give the pool `engine: llama` in queues.yaml."
            )


def _valid(folder: Path) -> Manifest | None:
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
        sizes = {name: (folder / name).stat().st_size for name in manifest.files}
    except (OSError, msgspec.MsgspecError):
        return None
    same = (manifest.format, manifest.folder, manifest.files) == (FORMAT, str(folder), sizes)
    return manifest if same else None


def _key(model: ModelFile, threads: int) -> str:
    machine = hashlib.sha256(f"{cpu.identity()} {threads}".encode()).hexdigest()[:8]
    version = metadata.version("openvino-genai").replace("-", ".")
    return f"{model.sha256[:20]}-{version}-{FORMAT}-{machine}"
