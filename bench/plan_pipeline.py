"""The planner's simulation of a pipeline beside the real one: two segments of a TFLite model on two devices.

What a segment computes is timed in a bare interpreter on its device, both at the same time, as they are in the
pipeline. What it costs a stage to hand tensors on is taken from one model of the same tensors, which the others do not
share. From these two follows what the simulation says of the other models; then the same inputs go through the
product's stages, two processes with a socket between them. Both are compared round by round, so that a busy machine
disturbs both alike.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bench import tiny_tflite
from bench.bare_loop import Asked, measure
from bench.devices import CORAL, DOUBLE_MS, SSD, double
from bench.figures import median, ms
from bench.product import DATA, cores
from bench.report import Goal, Report, Table
from bench.stages import FRAMES, frames_per_s, stages
from reef.planning.curves import Staged
from reef.planning.simulate import run as simulate
from reef.planning.strategies import Layout, Unit
from reef.planning.workload import Load
from workers.pipeline.head import IN_FLIGHT_PER_STAGE

ROUNDS = 5
MEASURE_S = 1.5
"""Both segments alone: so long that they compute at the same time, though one process starts before the other."""
FRAMES_MAX = 240
"""Of one request: beginning and end, where a stage waits, are a part of a per cent, and the results fit the memory."""
REQUESTS = 4
ERROR_MAX = 0.20
WIDTH, ROWS = 512, 64
INPUTS = 2_000.0
"""Of one turn in the simulation: a lane of inputs that follow each other."""
HEAD = ("inputs/s", "1st segment alone", "2nd", "predicted", "measured", "predicted / measured", "of the rounds")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A model in two segments, and where they run."""

    title: str
    model: str
    cuts: tuple[int, int, int] = (0, 0, 0)
    """Layers of both segments, where the model is made here."""
    devices: tuple[str, str] = ("cpu:0", "cpu:1")

    @property
    def compiled(self) -> bool:
        """Whether it runs through a delegate."""
        return not self.devices[0].startswith("cpu")


class Round(msgspec.Struct, frozen=True):
    """Seconds of each segment alone; inputs a second through the pipeline."""

    segments_s: tuple[float, float]
    measured_per_s: float


CALIBRATION = Case(title="2 layers, cut in the middle", model="least", cuts=(0, 1, 2))
CASES = (
    Case(title="16 layers, cut in the middle", model="even", cuts=(0, 8, 16)),
    Case(title="16 layers, cut after a quarter", model="uneven", cuts=(0, 4, 16)),
    Case(title="8 layers, cut after three quarters", model="short", cuts=(0, 6, 8)),
)


def add(report: Report) -> None:
    """Measure, predict, compare."""
    if cores() < 2:
        report.notes.append("One core: a pipeline of CPU devices needs one for each stage, so none was measured.")
        return
    folder = DATA / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for case in (CALIBRATION, *CASES):
        tiny_tflite.segments(folder, case.model, case.cuts, width=WIDTH, rows=ROWS)
    known = _rounds(CALIBRATION, folder, None)
    hop_s = median([hop(one) for one in known])
    rows = [_row(report, CALIBRATION, known, hop_s)]
    rows += [_row(report, case, _rounds(case, folder, None), hop_s) for case in CASES]
    library = double()
    if library is not None and list(CORAL.glob(f"pipeline/{SSD}_segment_*_of_2_edgetpu.tflite")):
        for path in CORAL.glob("pipeline/*.tflite"):
            shutil.copyfile(path, folder / path.name)
        title = f"SSD MobileNet v1, doubles of {DOUBLE_MS} ms"
        case = Case(title=title, model=SSD, devices=("usb:0", "usb:1"))
        rows.append(_row(report, case, _rounds(case, folder, library), hop_s))
    report.tables.append(Table(list(HEAD), rows))
    report.notes.append(
        f"Handing on {WIDTH * ROWS * 4 / 1000:.0f} kB costs a stage {ms(hop_s)} (calibrated on the first row); tensors "
        f"of {ROWS} × {WIDTH} numbers, one core a stage, {IN_FLIGHT_PER_STAGE} inputs a stage on their way."
    )


def hop(one: Round) -> float:
    """What a stage adds to what its segment computes, if the slower one sets the pace."""
    return max(0.0, 1 / one.measured_per_s - max(one.segments_s))


def predict(segments_s: tuple[float, ...], hop_s: float) -> float:
    """Inputs a second by the simulation: each lane of inputs is a conversation, each input a token of its reply."""
    stages_s = [segment_s + hop_s for segment_s in segments_s]
    lanes = IN_FLIGHT_PER_STAGE * len(stages_s)
    curve = Staged(pass_s=sum(stages_s), stages=len(stages_s), slowest_s=max(stages_s), streams=lanes)
    unit = Unit(devices=len(stages_s), curve=curve, route=0)
    layout = Layout(strategy="pipeline", units=(unit,), spares=0, swap_s=0.0, by_persona=False, held=True)
    load = Load(
        conversations=lanes,
        think_s=0.0,
        prompt=0.0,
        reply=INPUTS,
        lengths="fixed",
        personas=1,
        device_mtbf_h=None,
    )
    done = simulate(layout, load, len(stages_s), seed=0, span_s=60.0)
    return done.tokens / done.span_s


def _rounds(case: Case, folder: Path, library: Path | None) -> list[Round]:
    asked = [_asked(case, folder, library, number) for number in range(2)]
    asked = [msgspec.structs.replace(one, calls=max(FRAMES, round(MEASURE_S / _each_s(one)))) for one in asked]
    found = []
    with stages(case.model, case.devices, library) as engine, ThreadPoolExecutor(2) as both:
        frames = min(FRAMES_MAX, round(MEASURE_S * frames_per_s(engine, case.model) / REQUESTS))
        for _ in range(ROUNDS):
            first, second = both.map(_each_s, asked)
            rates = [frames_per_s(engine, case.model, frames) for _ in range(REQUESTS)]
            found.append(Round((first, second), len(rates) / sum(1 / rate for rate in rates)))
    return found


def _each_s(asked: Asked) -> float:
    """Of one call, with whatever disturbs it: the pipeline is disturbed too."""
    wall_s = measure(asked).wall_s
    return sum(wall_s) / len(wall_s)


def _asked(case: Case, folder: Path, library: Path | None, number: int) -> Asked:
    ending = "_edgetpu" if case.compiled else ""
    return Asked(
        runtime="tflite_runtime" if case.compiled else "ai_edge_litert",
        files=[str(folder / f"{case.model}_segment_{number}_of_2{ending}.tflite")],
        cores=[] if case.compiled else [int(case.devices[number].partition(":")[2])],
        library=str(library) if case.compiled else "",
        calls=FRAMES,
    )


def _row(report: Report, case: Case, rounds: list[Round], hop_s: float) -> list[str]:
    predicted = [predict(one.segments_s, hop_s) for one in rounds]
    ratios = [guess / one.measured_per_s for guess, one in zip(predicted, rounds, strict=True)]
    report.samples[case.title] = {"rounds": rounds, "predicted": predicted}
    error = median(ratios) - 1
    if case is not CALIBRATION:
        goal = f"{case.title}: inputs/s predicted within {ERROR_MAX:.0%}"
        report.goals.append(Goal(goal, f"{error:+.0%}", abs(error) <= ERROR_MAX))
    return [
        f"({case.title}: calibrated on)" if case is CALIBRATION else case.title,
        ms(median([one.segments_s[0] for one in rounds])),
        ms(median([one.segments_s[1] for one in rounds])),
        f"{median(predicted):.0f}",
        f"{median([one.measured_per_s for one in rounds]):.0f}",
        f"{median(ratios):.2f}",
        f"{min(ratios):.2f} to {max(ratios):.2f}",
    ]
