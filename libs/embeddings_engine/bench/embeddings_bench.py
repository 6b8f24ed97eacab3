"""Measures the default model and prints the Markdown of docs/MODELS.md. Every figure comes beside a peer's, same run.

python libs/embeddings_engine/bench/embeddings_bench.py engines --peer-python PATH_TO_A_PYTHON_WITH_TORCH
python libs/embeddings_engine/bench/embeddings_bench.py reductions | priority | store
python libs/embeddings_engine/bench/embeddings_bench.py invoke OLD.tflite NEW.tflite
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from bench_texts import of_tokens, varied
from numpy.typing import NDArray

from embeddings_engine import (
    EmbeddingsEngine,
    Int8,
    Pca,
    VectorCache,
    VectorStore,
    ensure_model,
    hamming_similarity,
    similarity,
    to_binary,
    truncate,
)

Vectors = NDArray[np.float32]
MODEL = "all-MiniLM-L6-v2"
TEXTS, SHORT, CHUNKS = 1000, 320, 32
SHORT_TOKENS, CHUNK_TOKENS = 20, 256
NEIGHBOURS = 10


@dataclass
class Row:
    """One engine's line of the table."""

    name: str
    p50_ms: float
    rates: dict[str, float]
    vectors: Vectors


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("engines", "reductions", "priority", "store", "invoke"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--peer-python", help="a Python with sentence-transformers")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(_machine())
    print()
    if options.what == "engines":
        _engines(options)
    elif options.what == "reductions":
        _reductions(options)
    elif options.what == "priority":
        _priority(options)
    elif options.what == "store":
        _store()
    else:
        _invoke(options.files, options.threads)


def _machine() -> str:
    names = ("ai-edge-litert", "onnxruntime", "numpy", "tokenizers")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        chip = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown CPU")
    return f"Machine: {chip}, {platform.system()} {platform.machine()}, Python {platform.python_version()}; {versions}."


def _version(name: str) -> str:
    """Of an installed package; the extras may be missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _open(options: argparse.Namespace, backend: str) -> EmbeddingsEngine:
    return EmbeddingsEngine(
        MODEL, "cpu", backend=backend, threads=options.threads, cache_dir=options.cache_dir, cache=VectorCache()
    )


def _engines(options: argparse.Namespace) -> None:
    texts, short, chunks = varied(TEXTS), of_tokens(SHORT, SHORT_TOKENS), of_tokens(CHUNKS, CHUNK_TOKENS)
    rows = []
    for name, backend in (("onnxruntime float32", "onnx"), ("this library, int8 TFLite", "tflite")):
        with _open(options, backend) as engine:
            rows.append(_measure(name, engine, texts, short, chunks))
    if options.peer_python:
        rows.append(_peer(options, texts, short, chunks))
    exact = rows[0].vectors
    lengths = np.array(_token_counts(options, texts))
    print(f"{MODEL}, {options.threads} thread(s), {TEXTS} varied texts of {lengths.min()} to {lengths.max()} tokens.")
    print()
    print("| engine | single p50 ms | 20-token texts/s, batch 1 / 32 / 64 | 256-token texts/s ", end="")
    print("| cosine mean / min | top-10 kept |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        rates = " / ".join(f"{row.rates[key]:.0f}" for key in ("1", "32", "64"))
        # a peer that cuts texts at its window is compared on the texts that it reads whole
        whole = lengths <= CHUNK_TOKENS - 2 if row.name.startswith("sentence") else np.ones(len(texts), bool)
        cosines = (row.vectors * exact).sum(axis=1)[whole]
        print(
            f"| {row.name} | {row.p50_ms:.1f} | {rates} | {row.rates['chunks']:.0f} "
            f"| {cosines.mean():.4f} / {cosines.min():.4f} | {_overlap(row.vectors[whole], exact[whole]):.3f} |"
        )


def _token_counts(options: argparse.Namespace, texts: Sequence[str]) -> list[int]:
    with _open(options, "tflite") as engine:
        return engine.count_tokens(texts)


def _measure(
    name: str, engine: EmbeddingsEngine, texts: Sequence[str], short: Sequence[str], chunks: Sequence[str]
) -> Row:
    engine.encode(short[:8])
    single_ms = [_timed(lambda text=text: engine.encode(text)) * 1000 for text in short[:200]]  # type: ignore[misc]
    rates = {"1": 1000 / statistics.median(single_ms)}
    for key, batch in (("32", 32), ("64", 64)):
        rates[key] = len(short) / min(_timed(lambda b=batch: engine.encode(short, batch_size=b)) for _ in range(3))  # type: ignore[misc]
    rates["chunks"] = len(chunks) / min(_timed(lambda: engine.encode(chunks)) for _ in range(3))
    return Row(name, statistics.median(single_ms), rates, engine.encode(texts))


def _timed(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def _peer(options: argparse.Namespace, texts: list[str], short: list[str], chunks: list[str]) -> Row:
    folder = ensure_model(MODEL, options.cache_dir)
    with tempfile.TemporaryDirectory() as temporary:
        vectors = Path(temporary) / "vectors.npy"
        job: dict[str, Any] = {"model": str(folder), "threads": options.threads, "vectors": str(vectors)}
        script = Path(__file__).with_name("peer_sentence_transformers.py")
        found = subprocess.run(
            [options.peer_python, str(script)],
            input=json.dumps(job | {"texts": texts, "short": short, "chunks": chunks}),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        answer = json.loads(found.stdout.splitlines()[-1])
        name = f"sentence-transformers (torch {answer['torch']})"
        return Row(name, answer["p50_ms"], answer["rates"], np.load(vectors))


def _neighbours(scores: Vectors) -> NDArray[np.intp]:
    scores = scores.copy()
    np.fill_diagonal(scores, -2)
    return np.argsort(-scores, axis=1)[:, :NEIGHBOURS]


def _overlap(vectors: Vectors, exact: Vectors) -> float:
    return _shared(_neighbours(vectors @ vectors.T), _neighbours(exact @ exact.T))


def _shared(left: NDArray[np.intp], right: NDArray[np.intp]) -> float:
    return float(np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(left, right, strict=True)]))


def _reductions(options: argparse.Namespace) -> None:
    with _open(options, "tflite") as engine:
        vectors, sample = engine.encode(varied(TEXTS)), engine.encode(of_tokens(SHORT, 40) + varied(2 * TEXTS)[TEXTS:])
    exact = _neighbours(vectors @ vectors.T)
    int8 = Int8.fit(sample)
    bits = to_binary(vectors)
    found: list[tuple[str, int, Vectors]] = [("float32, all dimensions", vectors[0].nbytes, vectors @ vectors.T)]
    for dimensions in (256, 192, 128, 64):
        cut = truncate(vectors, dimensions)
        found.append((f"first {dimensions} dimensions", cut[0].nbytes, cut @ cut.T))
        reduced = Pca.fit(sample, dimensions).apply(vectors)
        found.append((f"PCA to {dimensions}", reduced[0].nbytes, reduced @ reduced.T))
    codes = int8.encode(vectors)
    found.append(("int8", codes[0].nbytes, np.asarray(similarity(int8.decode(codes), vectors), np.float32)))
    found.append(("binary, Hamming", bits[0].nbytes, hamming_similarity(bits, bits)))
    print(f"{MODEL}, {TEXTS} texts searched among each other; PCA and int8 learnt from {len(sample)} other texts.")
    print()
    print("| form | bytes a vector | top-10 kept |")
    print("|---|---|---|")
    for name, size, scores in found:
        print(f"| {name} | {size} | {_shared(_neighbours(scores), exact):.3f} |")


def _priority(options: argparse.Namespace) -> None:
    questions, chunks = of_tokens(200, 12), of_tokens(400, CHUNK_TOKENS)
    with _open(options, "tflite") as engine:
        engine.encode(questions[:5])
        alone = [_timed(lambda text=text: engine.encode_query(text)) * 1000 for text in questions[:100]]  # type: ignore[misc]
        stop = threading.Event()
        bulk = threading.Thread(target=_load, args=(engine, chunks, stop))
        bulk.start()
        beside = [_timed(lambda text=text: engine.encode_query(text)) * 1000 for text in questions[100:]]  # type: ignore[misc]
        stop.set()
        bulk.join()
        one_chunk = _timed(lambda: engine.encode(chunks[0])) * 1000
    print("| question of 12 tokens | p50 ms | p95 ms |")
    print("|---|---|---|")
    for name, taken in (("alone", alone), ("while a bulk call of 256-token texts runs", beside)):
        print(f"| {name} | {np.percentile(taken, 50):.1f} | {np.percentile(taken, 95):.1f} |")
    print()
    print(f"One 256-token text alone takes {one_chunk:.1f} ms.")


def _load(engine: EmbeddingsEngine, chunks: list[str], stop: threading.Event) -> None:
    while not stop.is_set():
        engine.encode(chunks[:40])


def _store() -> None:
    random = np.random.default_rng(0)
    print("| vectors of 384 dimensions | insert/s | search p50 ms |")
    print("|---|---|---|")
    for count in (10_000, 100_000):
        rows = random.normal(size=(count, 384)).astype(np.float32)
        store = VectorStore()
        filled_s = _timed(lambda rows=rows, store=store: [store.insert(row) for row in rows])  # type: ignore[misc]
        taken = [_timed(lambda row=row, store=store: store.search(row)) * 1000 for row in rows[:50]]  # type: ignore[misc]
        print(f"| {count} | {count / filled_s:.0f} | {statistics.median(taken):.1f} |")


def _invoke(files: Sequence[Path], threads: int) -> None:
    """Time the bare signatures of TFLite files against each other, call by call in turn."""
    from ai_edge_litert.interpreter import Interpreter

    interpreters = [Interpreter(str(path), num_threads=threads) for path in files]
    signatures = [set(interpreter.get_signature_list()) for interpreter in interpreters]
    print("| signature | " + " | ".join(f"{path.name} p50 ms" for path in files) + " |")
    print("|---|" + "---|" * len(files))
    for name in sorted(set.intersection(*signatures), key=lambda name: int(name[1:])):
        tokens = int(name[1:])
        ids, mask = np.full((1, tokens), 2023, np.int32), np.ones((1, tokens), np.int32)
        calls = []
        for interpreter in interpreters:
            runner = interpreter.get_signature_runner(name)
            inputs = dict(zip(sorted(interpreter.get_signature_list()[name]["inputs"]), (ids, mask), strict=True))
            calls.append(lambda runner=runner, inputs=inputs: runner(**inputs))
        taken: list[list[float]] = [[] for _ in calls]
        for _ in range(max(12, 6000 // tokens)):
            for index, call in enumerate(calls):
                taken[index].append(_timed(call) * 1000)
        print(f"| {name} | " + " | ".join(f"{statistics.median(one):.2f}" for one in taken) + " |")


if __name__ == "__main__":
    main()
