"""`python -m bench [NAME ...]`: measure, print Markdown, keep JSON in bench/results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench import (
    affinity,
    chat,
    devices,
    embeddings,
    flood,
    footprint,
    gateway,
    ingestion,
    knowledge_quality,
    knowledge_search,
    overhead,
    passages,
    plan_pipeline,
    plan_validation,
    recovery,
    swap,
)
from bench.machine import load_average, this_machine
from bench.product import alone
from bench.report import Report

BENCHES: dict[str, tuple[str, Callable[[Report], None]]] = {
    "overhead": ("What the product adds to an engine that costs nothing", overhead.run),
    "chat": ("Chat beside the engine alone and beside llama.cpp's server", chat.run),
    "affinity": ("Second turn with and without session affinity", affinity.run),
    "plan_validation": ("The planner's simulation beside the running product", plan_validation.run),
    "plan_pipeline": ("The planner's simulation beside a real pipeline (in plan_validation too)", plan_pipeline.add),
    "recovery": ("A killed worker and a stopped reply", recovery.run),
    "swap": ("Another model while people talk", swap.run),
    "flood": ("Two hundred chats at once", flood.run),
    "embeddings": ("The embedding library beside sentence-transformers", embeddings.run),
    "passages": ("Files to text, and text to passages", passages.run),
    "knowledge_search": ("Searching twenty and a hundred thousand passages", knowledge_search.run),
    "knowledge_quality": ("Whether the right passage is found", knowledge_quality.run),
    "ingestion": ("Files in, chats beside them, questions afterwards", ingestion.run),
    "devices": ("TFLite models, a worker beside a bare loop, a pipeline", devices.run),
    "gateway": ("A token from Redis to the client, through the gateway and without it", gateway.run),
    "footprint": ("Memory, imports, and the time to get ready", footprint.run),
}

PARTS = ("plan_pipeline",)
"""Of other benches: run alone only when they are named."""


def main() -> int:
    """Run the named benches, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)} (default: all)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench is called {unknown[0]}; there are {', '.join(BENCHES)}")
    try:
        with alone():
            for name in arguments.names or [name for name in BENCHES if name not in PARTS]:
                _run(name)
    except BlockingIOError:
        print("Another bench runs on this data; figures taken side by side would mean nothing.", file=sys.stderr)
        return 1
    return 0


def _run(name: str) -> None:
    title, run = BENCHES[name]
    report = Report(name=name, title=title, command=f'make bench BENCH="{name}"', machine=this_machine())
    print(f"{name} …", file=sys.stderr, flush=True)
    run(report)
    report.load_after = load_average()
    path = report.save()
    print(report.markdown(), flush=True)
    print(f"samples: {path}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
