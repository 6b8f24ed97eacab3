"""An interpreter called in a bare loop, in a process of its own: `python -m bench.bare_loop`, told what on stdin.

Nothing of the product is in it: what a worker adds is measured against this.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from typing import Any

import msgspec

from bench.machine import ROOT

WARM = 3


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What to run."""

    runtime: str
    """ai_edge_litert or tflite_runtime."""
    files: list[str]
    """One model, or its segments, run one after the other."""
    threads: int = 1
    calls: int = 25
    cores: list[int] = []
    library: str = ""
    """A delegate; the segments get its devices usb:0, usb:1, ..."""


class Measured(msgspec.Struct, frozen=True):
    """Seconds of each call on the clock, and of the processor for all."""

    wall_s: list[float]
    cpu_s: float
    load_s: float


def measure(asked: Asked) -> Measured:
    """Run it in a process of its own."""
    child = subprocess.run(
        [sys.executable, "-m", "bench.bare_loop"],
        cwd=ROOT,
        input=msgspec.json.encode(asked),
        capture_output=True,
        check=False,
    )
    if child.returncode != 0:
        raise RuntimeError(f"the bare loop of {asked.files} failed: {child.stderr.decode()[-500:]}")
    return msgspec.json.decode(child.stdout.splitlines()[-1], type=Measured)


class _Part:
    """One interpreter and the tensors it shares with the others by name."""

    def __init__(self, module: Any, asked: Asked, number: int) -> None:
        delegates = []
        if asked.library:
            delegates = [module.load_delegate(asked.library, {"device": f"usb:{number}"})]
        self.interpreter = module.Interpreter(
            asked.files[number], num_threads=asked.threads, experimental_delegates=delegates
        )
        self.interpreter.allocate_tensors()
        self.inputs = self.interpreter.get_input_details()
        self.outputs = self.interpreter.get_output_details()

    def run(self, tensors: dict[str, Any]) -> None:
        for detail in self.inputs:
            self.interpreter.set_tensor(detail["index"], tensors[detail["name"]])
        self.interpreter.invoke()
        for detail in self.outputs:
            tensors[detail["name"]] = self.interpreter.get_tensor(detail["index"])


def main() -> int:
    """Read what to run, print what was measured."""
    import numpy as np

    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    if asked.cores:
        os.sched_setaffinity(0, asked.cores)
    began = time.perf_counter()
    module = importlib.import_module(f"{asked.runtime}.interpreter")
    parts = [_Part(module, asked, number) for number in range(len(asked.files))]
    load_s = time.perf_counter() - began
    given = {detail["name"]: np.ones(detail["shape"], detail["dtype"]) for detail in parts[0].inputs}
    wall: list[float] = []
    cpu_began = time.process_time()
    for number in range(WARM + asked.calls):
        if number == WARM:
            cpu_began = time.process_time()
        call_began = time.perf_counter()
        tensors = dict(given)
        for part in parts:
            part.run(tensors)
        if number >= WARM:
            wall.append(time.perf_counter() - call_began)
    sys.stdout.write(msgspec.json.encode(Measured(wall, time.process_time() - cpu_began, load_s)).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
