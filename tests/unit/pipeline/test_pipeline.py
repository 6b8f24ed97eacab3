"""A model in segments computes what it computes in one piece, and says what is wrong where it cannot."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from pipeline_parts import follower, running_pipeline, segment

from bench import tiny_tflite
from reef.ports import Cancelled, EngineError, EngineRefused, InferenceEngine
from reef.topology import Device
from workers.engines.tflite_runtime import Runtime
from workers.pipeline.head import MEET_WAIT_S, PipelineEngine

CPU = Device("cpu:0", "cpu", cores=(0,))


def inputs(count: int) -> list[list[NDArray[Any]]]:
    """Inputs that are all different."""
    numbers = np.random.default_rng(7)
    return [[numbers.normal(size=(1, tiny_tflite.WIDTH)).astype(np.float32)] for _ in range(count)]


def whole(tmp_path: Path, given: Sequence[list[NDArray[Any]]]) -> list[NDArray[Any]]:
    """What the model makes of them in one interpreter."""
    model = Runtime(CPU, "").load(tiny_tflite.chain(tmp_path / "whole.tflite"))
    return [model.run(tensors)[0] for tensors in given]


@pytest.mark.parametrize("cuts", [(0, 2, 4), (0, 1, 2, 4), (0, 1, 4), (0, 1, 2, 3, 4)], ids=str)
def test_segments_make_what_the_whole_makes(tmp_path: Path, cuts: Sequence[int]) -> None:
    """Two, three and four segments, a tensor passing one that does not use it: the same numbers in the same order."""
    tiny_tflite.segments(tmp_path / "models", "chain", cuts)
    given = inputs(40)
    with running_pipeline(tmp_path, "chain", len(cuts) - 1) as engine:
        assert isinstance(engine, InferenceEngine)
        facts = engine.describe("chain")
        assert [spec.name for spec in facts.inputs] == ["t0"]
        assert [spec.name for spec in facts.outputs] == ["sum"]
        assert engine.resident() == [f"chain_segment_0_of_{len(cuts) - 1}"]
        found = engine.infer("chain", given, threading.Event())
        assert engine.steps() >= 2 * len(given)
    for made, expected in zip(found, whole(tmp_path, given), strict=True):
        np.testing.assert_array_equal(made[0], expected)


def test_callers_share_it(tmp_path: Path) -> None:
    """Several callers at once: each gets the results of its own inputs, in its order, through a window of two."""
    tiny_tflite.segments(tmp_path / "models", "chain")
    given = [inputs(60)[start::4] for start in range(4)]
    found: list[Any] = [None] * 4
    with running_pipeline(tmp_path, "chain", 3, in_flight=2) as engine:

        def call(number: int) -> None:
            found[number] = engine.infer("chain", given[number], threading.Event())

        threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    for number in range(4):
        for made, expected in zip(found[number], whole(tmp_path, given[number]), strict=True):
            np.testing.assert_array_equal(made[0], expected)


def test_a_stage_that_comes_back_is_found(tmp_path: Path) -> None:
    """While a stage is gone the call fails with its name; once it is back the next one is answered."""
    tiny_tflite.segments(tmp_path / "models", "chain")
    peers = ["media-cpu-0", "media-cpu-1", "media-cpu-2"]
    later = [follower(tmp_path, "chain", peers, number) for number in (1, 2)]
    head = PipelineEngine(segment(tmp_path, "chain", peers, 0), tmp_path, hang_s=20.0)
    head.load(lambda share, note: None)
    given = inputs(3)
    head.infer("chain", given, threading.Event())
    steps = head.steps()
    later[1].close()
    head._wait_s = 0.3
    with pytest.raises(EngineError, match=r"interrupted: stage media-cpu-2|not complete: stage media-cpu-2"):
        head.infer("chain", given, threading.Event())
    with pytest.raises(EngineError, match=r"not complete: stage media-cpu-2 is not there"):
        head.infer("chain", given, threading.Event())
    later[1] = follower(tmp_path, "chain", peers, 2)
    head._wait_s = MEET_WAIT_S
    found = head.infer("chain", given, threading.Event())
    np.testing.assert_array_equal(found[0][0], whole(tmp_path, given)[0])
    assert head.steps() > steps, "a counter of steps never goes back"
    for engine in (head, *later):
        engine.close()


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    """Another model, segments of different cuts, files that are missing, stages on two machines."""
    tiny_tflite.segments(tmp_path / "models", "chain", (0, 2, 4))
    with running_pipeline(tmp_path, "chain", 2) as engine, pytest.raises(EngineRefused, match="runs chain only"):
        engine.describe("other")
    with running_pipeline(tmp_path, "chain", 2) as engine:
        # a segment of another cut takes the place of the last one
        odd = tiny_tflite.Graph()
        odd.tensor("t2", (1, 8))
        odd.tensor("sum", (1, 8))
        odd.operator(schema.BuiltinOperator.RELU, ["t2"], ["sum"], None)
        odd.save(tmp_path / "models" / "chain_segment_1_of_2.tflite", ["t2"], ["sum"])
        stage = follower(tmp_path, "chain", ["media-cpu-0", "media-cpu-1"], 1)
        with pytest.raises(EngineError, match=r"segments do not fit: tensor 't2' is made as float32 \[1, 16\]"):
            engine.describe("chain")
        stage.close()
    with pytest.raises(EngineError, match="on one machine"):
        segment(tmp_path, "chain", ["media-pci-0.alpha", "media-pci-0.beta"], 0)


def test_missing_segments_are_named(tmp_path: Path) -> None:
    """Compiled files are none for a CPU, and what has to be put there is said."""
    tiny_tflite.segments(tmp_path / "models", "chain", (0, 2, 4))
    (tmp_path / "models" / "chain_segment_0_of_2.tflite").unlink()
    tiny_tflite.compiled(tmp_path / "models" / "chain_segment_0_of_2_edgetpu.tflite")
    part = segment(tmp_path, "chain", ["a", "b"], 1)
    with pytest.raises(EngineError, match=r"not all segments of chain in 2: 0 missing, as chain_segment_0_of_2.tflite"):
        part.load(lambda share, note: None)
    part.close()


def test_a_call_can_be_stopped(tmp_path: Path) -> None:
    """A stop between two inputs ends the call; what is on its way is dropped and the next caller is served."""
    tiny_tflite.segments(tmp_path / "models", "chain")
    given = inputs(4)
    stop = threading.Event()
    stop.set()
    with running_pipeline(tmp_path, "chain", 3) as engine:
        with pytest.raises(Cancelled):
            engine.infer("chain", given, stop)
        np.testing.assert_array_equal(engine.infer("chain", given, threading.Event())[3][0], whole(tmp_path, given)[3])
