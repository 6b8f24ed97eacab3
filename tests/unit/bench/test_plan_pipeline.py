"""The bench of the planner's pipeline: what it predicts, and that the pipeline it measures is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import stages, tiny_tflite
from bench.plan_pipeline import Round, hop, predict


@pytest.mark.parametrize("segments_s", [(0.004, 0.004), (0.001, 0.005), (0.005, 0.001)])
def test_the_slowest_segment_and_its_hop_set_the_pace(segments_s: tuple[float, float]) -> None:
    """However the model is cut; a hop is what is missing between a segment alone and the pipeline."""
    assert predict(segments_s, 0.001) == pytest.approx(1 / (max(segments_s) + 0.001), rel=0.02)
    assert hop(Round(segments_s, 1 / 0.006)) == pytest.approx(0.006 - max(segments_s))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each stage has a core of its own, and there is one core")
def test_the_second_stage_is_a_process_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stages are found and inputs go through them; afterwards the process and its core are as they were."""
    monkeypatch.setattr(stages, "DATA", tmp_path)
    tiny_tflite.segments(tmp_path / "models", "least", (0, 1, 2))
    mine = os.sched_getaffinity(0)
    first, second = sorted(mine)[:2]
    with stages.stages("least", (f"cpu:{first}", f"cpu:{second}"), None) as engine:
        assert stages.frames_per_s(engine, "least", 10) > 0
        assert engine.steps() > 10
    assert os.sched_getaffinity(0) == mine
