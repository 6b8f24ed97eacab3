"""A pipeline of two devices as a bench has it: the first stage in this process, the second in one of its own.

`python -m bench.stages SEGMENT` is the second: the product's own stage, without a broker and a place in a database.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from bench.machine import ROOT
from bench.product import DATA
from reef.placement.model import Place
from reef.settings import Settings, load_settings
from reef.topology import Device, load_topology
from workers.engines.select import choose_stage
from workers.pipeline.head import PipelineEngine

FRAMES = 60


@contextmanager
def stages(model: str, devices: tuple[str, str], library: Path | None) -> Iterator[PipelineEngine]:
    """Both stages, each on its core where its device has one. The models are in `models/` of the bench's data."""
    queues = DATA / "pipeline.yaml"
    queues.write_text(
        f"version: 1\npools:\n  chat: {{queue: chat}}\n  media: {{queue: media, devices: {list(devices)}}}\n",
        encoding="utf-8",
    )
    settings = load_settings().changed(data_dir=DATA, queues_file=queues, edgetpu_library=str(library or ""))
    pool = load_topology(queues).pool("media")
    peers = tuple(pool.node(device) for device in pool.devices)
    first = Place(node=peers[0], pool="media", model=model, tier="stage", stage=0, peers=peers)
    mine = os.sched_getaffinity(0)
    second = _second(settings, msgspec.structs.replace(first, node=peers[1], stage=1))
    engine = cast(PipelineEngine, choose_stage(settings, pool, pool.devices[0], first))
    try:
        _pin(pool.devices[0])
        engine.load(lambda share, note: None)
        frames_per_s(engine, model)
        yield engine
    finally:
        engine.close()
        os.sched_setaffinity(0, mine)
        second.terminate()
        second.wait(15)


def frames_per_s(engine: PipelineEngine, model: str, frames: int = FRAMES) -> float:
    """Inputs a second, as many on their way as the window allows."""
    facts = engine.describe(model)
    given = [[np.ones(spec.shape, spec.dtype) for spec in facts.inputs]] * frames
    began = time.perf_counter()
    engine.infer(model, given, threading.Event())
    return frames / (time.perf_counter() - began)


def _second(settings: Settings, place: Place) -> subprocess.Popen[bytes]:
    said = (DATA / "stage.log").open("wb")
    with said:
        return subprocess.Popen(
            [sys.executable, "-m", "bench.stages", msgspec.json.encode(place).decode()],
            cwd=ROOT,
            env=os.environ | settings.environment(),
            stdout=said,
            stderr=said,
        )


def _pin(device: Device) -> None:
    if device.cores:
        os.sched_setaffinity(0, device.cores)


def main() -> int:
    """Be the stage that is told, until somebody ends it."""
    place = msgspec.json.decode(sys.argv[1], type=Place)
    settings = load_settings()
    pool = load_topology(settings.queues_file).pool(place.pool)
    device = pool.devices[place.stage]
    _pin(device)
    choose_stage(settings, pool, device, place).load(lambda share, note: None)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
