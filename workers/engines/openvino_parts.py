"""The OpenVINO libraries and the one way the pipeline is built, shared by the engine and the conversion.

Both must build it with the same properties, or the compiled blob of the one is not found by the other.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from workers.devices import cpu


def silence_telemetry() -> None:
    """Call this before anything of OpenVINO is imported: without its telemetry client it tells nobody that it was.

    OpenVINO has a stub for the case that the client is not installed; a None in sys.modules makes it take that.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def plain_import() -> Any:
    """Import openvino_genai without OpenVINO's model converter, which costs 100 ms."""
    silence_telemetry()
    hidden = "openvino.tools.ovc"
    absent = hidden not in sys.modules
    if absent:
        sys.modules[hidden] = None  # type: ignore[assignment]  # makes the optional import fail at once
    try:
        import openvino_genai
    finally:
        if absent:
            del sys.modules[hidden]
    return openvino_genai


def make_pipeline(folder: Path, threads: int, kv_blocks: int, *, streams: int, chunk_tokens: int, blob: bool) -> Any:
    """A ContinuousBatchingPipeline over a prepared directory."""
    genai = plain_import()
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = kv_blocks
    scheduler.enable_prefix_caching = True
    scheduler.dynamic_split_fuse = True
    scheduler.max_num_batched_tokens = chunk_tokens
    scheduler.max_num_seqs = streams
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if "amx_bf16" not in cpu.flags():
        # OpenVINO's own choice is bf16 where the CPU has AVX-512 BF16, and without AMX that is the slow one: it gives
        # up 8-bit activations (476 against 675 to 802 tokens/s at 8 streams, docs/performance.md)
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    if blob:
        properties["CACHE_DIR"] = str(folder / "blob")
    return genai.ContinuousBatchingPipeline(str(folder), genai.Tokenizer(str(folder)), scheduler, "CPU", **properties)
