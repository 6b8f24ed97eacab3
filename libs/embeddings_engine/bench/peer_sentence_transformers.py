"""sentence-transformers as a peer, run by another Python: reads a job as JSON, prints timings as JSON, saves vectors.

Stands alone on purpose: it runs in an environment of its own that has torch, which this library never needs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any


def main() -> None:
    """One job: {"model", "threads", "texts", "short", "chunks", "vectors"}."""
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer

    job: dict[str, Any] = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    model = SentenceTransformer(job["model"], device="cpu")

    def encode(texts: list[str], batch: int) -> Any:
        return model.encode(texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)

    encode(job["short"][:8], 8)
    np.save(job["vectors"], encode(job["texts"], 32))
    single_ms = []
    for text in job["short"][:60]:
        start_s = time.perf_counter()
        encode([text], 1)
        single_ms.append((time.perf_counter() - start_s) * 1000)
    rates = {}
    for name, texts, batch in (("32", job["short"], 32), ("64", job["short"], 64), ("chunks", job["chunks"], 32)):
        best_s = float("inf")
        for _ in range(2):
            start_s = time.perf_counter()
            encode(texts, batch)
            best_s = min(best_s, time.perf_counter() - start_s)
        rates[name] = len(texts) / best_s
    rates["1"] = 1000 / statistics.median(single_ms)
    print(json.dumps({"p50_ms": statistics.median(single_ms), "rates": rates, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
