"""Prepares a .gguf file for the OpenVINO engine: `python -m workers.engines.openvino_convert FILE FOLDER THREADS`.

Runs in a process of its own (openvino_cache starts it) and prints its steps as JSON lines. Never runs in a worker.
With `compile FOLDER THREADS` it only loads what is there, which writes blob/: OpenVINO finds a blob again only if the
names of all nodes agree, and it numbers them per process, so this must be as fresh a process as a worker is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from reef.models.gguf import GgufHead, read_head
from workers.engines.gguf_tokenizer import end_ids, save_tokenizers, token_bytes
from workers.engines.openvino_cache import FORMAT, Manifest, Step
from workers.engines.openvino_parts import make_pipeline, plain_import
from workers.engines.openvino_weights import WIDEN_BELOW_BYTES, widen

KV_BYTES_PER_VALUE = 1.25
"""Keys and values are kept in 8 bits with a scale and a zero point per group."""
CONVERTING_NICE = 10
"""Another model may be answering people meanwhile."""
TRIAL_KV_BLOCKS = 64


def convert(source: Path, folder: Path, threads: int) -> None:
    """Write everything that openvino_cache describes."""
    _tell(0.02, "reading the vocabulary")
    head = read_head(source)
    save_tokenizers(head, folder)
    (folder / "vocabulary.msgpack").write_bytes(msgspec.msgpack.encode(token_bytes(head)))
    _tell(0.10, "reading the network")
    _save_network(source, folder)
    _tell(0.60, "compiling it for this processor")
    manifest = Manifest(
        format=FORMAT,
        folder=str(folder),
        blob=_compile(folder, threads),
        end_ids=end_ids(head),
        context_tokens=head.context_tokens,
        kv_bytes_per_token=_kv_bytes(head),
        files={
            str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
        },
    )
    last = folder / "manifest.new"
    last.write_bytes(msgspec.json.encode(manifest))
    last.rename(folder / "manifest.json")
    _tell(1.0, "done")


def _save_network(source: Path, folder: Path) -> None:
    genai = plain_import()
    link = folder / "model.gguf"  # the library writes beside the path it was given
    link.symlink_to(source)
    try:
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = TRIAL_KV_BLOCKS
        genai.ContinuousBatchingPipeline(
            str(link), genai.Tokenizer(str(folder)), scheduler, "CPU", enable_save_ov_model=True
        )
    finally:
        link.unlink()
    _tell(0.45, "simplifying the network")
    import openvino as ov
    from openvino._offline_transformations import apply_moc_transformations

    path = folder / "openvino_model.xml"
    model = ov.Core().read_model(str(path))
    apply_moc_transformations(model, cf=False)  # a fifth of the nodes go, and with them a part of every start
    if source.stat().st_size < WIDEN_BELOW_BYTES:
        widen(model)
    simple = folder / "simple.xml"
    ov.save_model(model, str(simple), compress_to_fp16=False)
    del model
    simple.rename(path)
    simple.with_suffix(".bin").rename(path.with_suffix(".bin"))


def _compile(folder: Path, threads: int) -> bool:
    """Compile into blob/ and try whether the result is taken the next time."""
    blobs = folder / "blob"
    blobs.mkdir()
    command = [sys.executable, "-m", __spec__.name, "compile", str(folder), str(threads)]
    subprocess.run(command, check=True)
    before = {path: path.stat().st_ino for path in blobs.iterdir()}
    _tell(0.85, "trying it")
    subprocess.run(command, check=True)
    taken = bool(before) and before == {path: path.stat().st_ino for path in blobs.iterdir()}
    if not taken:  # a blob that is refused costs its writing at every start and gains nothing
        for path in blobs.iterdir():
            path.unlink()
    return taken


def _kv_bytes(head: GgufHead) -> int:
    get = head.metadata.get
    arch = head.architecture
    heads = int(get(f"{arch}.attention.head_count", 1))
    size = int(get(f"{arch}.attention.key_length", int(get(f"{arch}.embedding_length", 0)) // heads))
    kv_heads = int(get(f"{arch}.attention.head_count_kv", heads))
    return int(2 * int(get(f"{arch}.block_count", 1)) * kv_heads * size * KV_BYTES_PER_VALUE)


def _tell(share: float, note: str) -> None:
    sys.stdout.write(msgspec.json.encode(Step(share, note)).decode() + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Convert, or only compile."""
    os.nice(CONVERTING_NICE)
    source, folder, threads = arguments
    if source == "compile":
        make_pipeline(Path(folder), int(threads), TRIAL_KV_BLOCKS, streams=1, chunk_tokens=256, blob=True)
    else:
        convert(Path(source), Path(folder), int(threads))


if __name__ == "__main__":
    main(sys.argv[1:])
