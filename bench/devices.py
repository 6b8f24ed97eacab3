"""TFLite models: both runtimes, a worker beside a bare loop, a pipeline beside its stages one after the other.

The real Coral models are measured where they are (REEF_TEST_DATA, else ../shared/data beside the checkout). No Edge TPU
is needed: rows marked "double" run through the tests' stand-in for its library, whose calls take a fixed time and no
processor, as those of the hardware do; they measure what is around the device, never the device.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import numpy as np

from bench import tiny_tflite
from bench.bare_loop import Asked, measure
from bench.figures import median, ratio
from bench.machine import ROOT
from bench.product import DATA, Product, cores, running, spent
from bench.report import Goal, Report, Table
from bench.stages import FRAMES, frames_per_s, stages

CALLS = 25
ROUNDS = 5
JOBS = 12
"""Requests of one round."""
AT_ONCE = 3
"""Clients: a worker that has one job and knows the next never waits for one."""
BYTES_MAX = 7 << 20
INPUTS_MAX = 128
SHARE_MIN = 0.9
DOUBLE_MS = 10
CORAL = Path(os.environ.get("REEF_TEST_DATA") or ROOT.parent / "shared" / "data") / "coral"
MODELS = (
    "keras_lstm_mnist_ptq",
    "mobilenet_v1_0.25_128_quant",
    "mobilenet_v2_1.0_224_quant",
    "mobilenet_v1_1.0_224_quant_embedding_extractor",
    "movenet_single_pose_lightning_ptq",
)
SSD = "ssd_mobilenet_v1_coco_quant_postprocess"
WIDE, ROWS, LAYERS = 512, 64, 8
RUNTIMES = {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}


def run(report: Report) -> None:
    """Measure."""
    models = DATA / "models"
    models.mkdir(parents=True, exist_ok=True)
    for path in [*CORAL.glob("*.tflite"), *CORAL.glob("pipeline/*.tflite")]:
        shutil.copyfile(path, models / path.name)
    if not CORAL.is_dir():
        report.notes.append(f"{CORAL} is absent: no Coral model was measured; REEF_TEST_DATA names its folder.")
    tiny_tflite.chain(models / "dense.tflite", 0, LAYERS, layers=LAYERS, width=WIDE, rows=ROWS)
    tiny_tflite.segments(models, "dense", (0, LAYERS // 2, LAYERS), width=WIDE, rows=ROWS)
    library = double()
    report.tables.append(_runtimes(report, models))
    report.tables.append(_throughput(report, models, library))
    report.tables.append(_pipeline(report, models, library))


def double() -> Path | None:
    """The tests' stand-in for libedgetpu.so.1; None without a compiler."""
    if shutil.which("gcc") is None:
        return None
    library = DATA / "libedgetpu_double.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, ROOT / "tests" / "edgetpu_double.c"], check=True)
    os.environ["EDGETPU_DOUBLE_MS"] = str(DOUBLE_MS)
    return library


# --- both runtimes


def _runtimes(report: Report, models: Path) -> Table:
    rows = []
    for name in [*(name for name in MODELS if (models / f"{name}.tflite").is_file()), "dense"]:
        row, p50 = (
            [name if name != "dense" else f"dense, {LAYERS} layers of {WIDE}, {ROWS} rows, float32, made here"],
            {},
        )
        for title, runtime in RUNTIMES.items():
            for threads in (1, 2) if cores() > 1 else (1,):
                files = [str(models / f"{name}.tflite")]
                found = measure(Asked(runtime=runtime, files=files, threads=threads, calls=CALLS))
                p50[title, threads] = median(found.wall_s)
                row.append(f"{p50[title, threads] * 1000:.2f}")
                if threads == 1:
                    row.append(f"{found.cpu_s / CALLS * 1000:.2f}")
                report.samples[f"{name} {title} {threads}"] = found
        row.append(ratio(p50["tflite-runtime", 1], p50["ai-edge-litert", 1]))
        rows.append(row)
    head = ["ms an inference, CPU"]
    for title in RUNTIMES:
        head += [f"{title}, 1 thread p50", "cpu", *(["2 threads p50"] if cores() > 1 else [])]
    return Table([*head, "runtime / litert"], rows)


# --- the product beside a bare loop


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one row of the comparison runs."""

    title: str
    model: str
    device: str
    asked: Asked
    counts: bool
    """Whether the goal is about this row."""


def _loads(models: Path, library: Path | None) -> list[Load]:
    found = []
    for name, counts in (("mobilenet_v2_1.0_224_quant", True), ("mobilenet_v1_0.25_128_quant", False), ("dense", True)):
        path = models / f"{name}.tflite"
        if path.is_file():
            asked = Asked(runtime="ai_edge_litert", files=[str(path)], cores=[0])
            found.append(Load(title=f"{name}, cpu:0", model=name, device="cpu:0", asked=asked, counts=counts))
    name = "mobilenet_v1_1.0_224_quant_embedding_extractor"
    path = models / f"{name}_edgetpu.tflite"
    if library is not None and path.is_file():
        asked = Asked(runtime="tflite_runtime", files=[str(path)], library=str(library))
        title = f"{name}, double of {DOUBLE_MS} ms"
        found.append(Load(title=title, model=name, device="usb:0", asked=asked, counts=True))
    return found


class Sides(msgspec.Struct, frozen=True):
    """One round of both: inferences a second, and seconds of processor time that an inference took."""

    bare_per_s: float
    bare_cpu_s: float
    product_per_s: float
    worker_cpu_s: float

    @property
    def share(self) -> float:
        """The product's part of the bare loop's speed."""
        return self.product_per_s / self.bare_per_s

    @property
    def cpu_share(self) -> float:
        """Of the worker's processor time, the part that the bare loop needs too."""
        return self.bare_cpu_s / self.worker_cpu_s


def _throughput(report: Report, models: Path, library: Path | None) -> Table:
    rows = []
    for load in _loads(models, library):
        with running(_queues(load.device), **({"edgetpu_library": str(library)} if library else {})) as product:
            body, inputs = _body(load)
            _round(product, body, AT_ONCE)
            sides = [_both(product, load, body, inputs) for _ in range(ROUNDS)]
        report.samples[load.title] = sides
        shares = [one.share for one in sides]
        computes = load.device.startswith("cpu")
        rows.append(
            [
                load.title,
                str(inputs),
                f"{median([one.bare_per_s for one in sides]):.0f}",
                f"{median([one.product_per_s for one in sides]):.0f}",
                f"{median(shares):.2f}",
                f"{min(shares):.2f} to {max(shares):.2f}",
                f"{median([one.cpu_share for one in sides]):.2f}" if computes else "",
            ]
        )
        if load.counts:
            found = median(shares)
            report.goals.append(Goal(f"{load.title}: {SHARE_MIN} of a bare loop", f"{found:.2f}", found >= SHARE_MIN))
    head = ["inferences/s", "inputs a job", "bare loop", "through the product", "share, median", "of the rounds"]
    return Table([*head, "the same of the worker's processor time"], rows)


def _both(product: Product, load: Load, body: bytes, inputs: int) -> Sides:
    calls = max(10, inputs * JOBS // 4)
    found = measure(msgspec.structs.replace(load.asked, calls=calls))
    before = product.usage()
    took_s = _round(product, body, JOBS)
    worker_s = spent(before, product.usage())[f"media-{load.device.replace(':', '-')}"]
    done = inputs * JOBS
    return Sides(calls / sum(found.wall_s), found.cpu_s / calls, done / took_s, worker_s / done)


def _queues(device: str) -> str:
    return (
        "version: 1\npools:\n"
        "  chat: {queue: chat, devices: [simulated], engine: simulated}\n"
        f"  media: {{queue: media, devices: ['{device}'], streams: 2, "
        "limits: {waiting_max: 64, deadline_s: 300, lease_s: 30, hang_s: 20}}\n"
    )


def _body(load: Load) -> tuple[bytes, int]:
    """A request as long as it may be, and how many inputs it has."""
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(load.asked.files[0]).get_input_details()
    sizes = [int(np.prod(one["shape"])) * np.dtype(one["dtype"]).itemsize for one in details]
    count = min(INPUTS_MAX, int(BYTES_MAX * 0.75 / sum(sizes)))
    tensors = [{"data": base64.b64encode(bytes(size)).decode()} for size in sizes]
    return msgspec.json.encode({"model": load.model, "inputs": [tensors] * count}), count


def _round(product: Product, body: bytes, requests: int) -> float:
    """Seconds until so many requests were answered, some of them at once."""
    headers = {"Content-Type": "application/json"}
    with (
        httpx.Client(base_url=product.url, timeout=120, trust_env=False) as client,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):

        def ask(_number: int) -> None:
            client.post("/api/v1/inference", content=body, headers=headers).raise_for_status()

        began = time.perf_counter()
        list(pool.map(ask, range(requests)))
        return time.perf_counter() - began


# --- a pipeline beside its stages one after the other


def _pipeline(report: Report, models: Path, library: Path | None) -> Table:
    rows = []
    found = [("dense in 2 segments on cpu:0 and cpu:1", "dense", ("cpu:0", "cpu:1"))] if cores() > 1 else []
    if library is not None and list(models.glob(f"{SSD}_segment_*_of_2_edgetpu.tflite")):
        found.append((f"SSD MobileNet v1, 2 segments, doubles of {DOUBLE_MS} ms", SSD, ("usb:0", "usb:1")))
    for title, model, devices in found:
        compiled = devices[0] != "cpu:0"
        ending = "_edgetpu" if compiled else ""
        files = [str(models / f"{model}_segment_{number}_of_2{ending}.tflite") for number in range(2)]
        asked = Asked(
            runtime="tflite_runtime" if compiled else "ai_edge_litert",
            files=files,
            cores=[] if compiled else [0],
            library=str(library) if compiled else "",
            calls=FRAMES,
        )
        in_turn: list[float] = []
        at_once: list[float] = []
        with stages(model, devices, library) as engine:
            for _ in range(ROUNDS):
                in_turn.append(FRAMES / sum(measure(asked).wall_s))
                at_once.append(frames_per_s(engine, model))
        gains = [mine / peer for mine, peer in zip(at_once, in_turn, strict=True)]
        report.samples[title] = {"in_turn_per_s": in_turn, "at_once_per_s": at_once}
        rows.append(
            [
                title,
                f"{median(in_turn):.0f}",
                f"{median(at_once):.0f}",
                f"{median(gains):.2f}×",
                f"{min(gains):.2f} to {max(gains):.2f}",
            ]
        )
    head = [
        "inputs/s",
        "stages one after the other",
        "as a pipeline",
        "gain, median (2 is all there is)",
        "of the rounds",
    ]
    return Table(head, rows)
