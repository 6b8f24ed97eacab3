"""Stages of a pipeline in one process, on CPU cores: real sockets, real interpreters, a thread each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reef.placement.model import Place
from reef.topology import Device
from workers.pipeline.head import PipelineEngine
from workers.pipeline.stage import Segment, StageEngine


def segment(data_dir: Path, model: str, peers: Sequence[str], stage: int, **options: object) -> Segment:
    """One segment, not loaded yet."""
    place = Place(node=peers[stage], pool="media", model=model, tier="stage", stage=stage, peers=tuple(peers))
    fields = {
        "library": "",
        "hang_s": 20.0,
        "models_dir": data_dir / "models",
        "device": Device("cpu:0", "cpu", cores=(0,)),
    }
    fields |= {"trace_file": data_dir / f"{peers[stage]}.hang"} | options
    return Segment(place, **fields)  # type: ignore[arg-type]


def follower(data_dir: Path, model: str, peers: Sequence[str], stage: int) -> StageEngine:
    """A later stage that listens."""
    engine = StageEngine(segment(data_dir, model, peers, stage), data_dir)
    engine.load(lambda share, note: None)
    return engine


@contextmanager
def running_pipeline(data_dir: Path, model: str, count: int, **options: object) -> Iterator[PipelineEngine]:
    """All stages of a model in so many segments."""
    peers = [f"media-cpu-{number}" for number in range(count)]
    later = [follower(data_dir, model, peers, number) for number in range(1, count)]
    head = PipelineEngine(segment(data_dir, model, peers, 0), data_dir, hang_s=20.0, **options)  # type: ignore[arg-type]
    head.load(lambda share, note: None)
    try:
        yield head
    finally:
        head.close()
        for stage in later:
            stage.close()
