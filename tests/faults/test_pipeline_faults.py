"""Stages of a pipeline as processes of their own, each with its own Edge TPU (the double): killed and started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from coral import coral
from edgetpu_double import Double, compile_double
from services import RedisServer

from bench import tiny_tflite
from reef.contracts.jobs import InferenceInputs, InferenceJob, InputTensor
from reef.inference.running import InferenceResult
from reef.ledger import JobRecord, Ledger, NewJob
from reef.ledger.sweep import sweep
from reef.placement.model import Place
from reef.placement.store import PlacementStore
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import Device, load_topology
from tasks.dispatch import Dispatcher
from workers.engines.tflite_runtime import Runtime

ROOT = Path(__file__).parents[2]
QUEUES = """
version: 1
pools:
  chat: {queue: chat}
  media:
    queue: staged
    streams: 2
    limits: {deadline_s: 60, attempts_max: 4, lease_s: 10, hang_s: 30, drain_s: 1}
allocation: {strategy: pipeline, devices: [usb:0-4], pipeline: {model: three, segments: 3}}
"""
CALL_MS = 20
INPUTS = 30
PICTURE_BYTES = 8 * 8 * 3
SSD = "ssd_mobilenet_v1_coco_quant_postprocess"


class Staged:
    """Broker, records, and processes that are stages; the test is front door, supervisor and sweeper."""

    def __init__(self, folder: Path, redis_url: str, database: Path, double: Double) -> None:
        self.data_dir, queues = folder / "data", folder / "queues.yaml"
        (self.data_dir / "models").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(database, self.data_dir / "reef.db")
        queues.write_text(QUEUES, encoding="utf-8")
        self.settings = Settings(
            data_dir=self.data_dir, queues_file=queues, redis_url=redis_url, edgetpu_library=str(double.library)
        )
        self.database = Database(self.settings.sqlalchemy_url)
        self.ledger, self.double = Ledger(self.database), double
        self.dispatcher = Dispatcher(self.settings, load_topology(queues))
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, model: str, devices: Sequence[int], *stages: int) -> None:
        """Place these stages of a pipeline on these devices, and start the devices' workers."""
        environment = os.environ | self.settings.environment() | self.double.environment
        peers = tuple(f"usb-{device}" for device in devices)
        places = PlacementStore(self.database)
        for stage in stages:
            place = places.get(peers[stage]) or Place(node=peers[stage])
            fields = {"pool": "media", "model": model, "tier": "stage", "stage": stage, "peers": peers}
            places.put([msgspec.structs.replace(place, **fields)])
            with (self.data_dir / f"stage{stage}.log").open("ab") as log:
                self.processes[devices[stage]] = subprocess.Popen(
                    [sys.executable, "-m", "workers.main", "--device", f"usb:{devices[stage]}"],
                    cwd=ROOT,
                    env=environment | {"EDGETPU_DOUBLE_MS": str(CALL_MS)},
                    stdout=log,
                    stderr=log,
                )

    def end(self, device: int, sig: int = signal.SIGTERM) -> None:
        """End the process of a device and wait."""
        process = self.processes.pop(device)
        process.send_signal(sig)
        process.wait(15)
        if sig == signal.SIGKILL:
            self.ledger.release_owner(f"usb-{device}")  # as its supervisor does

    def submit(self, model: str, inputs: Sequence[bytes]) -> str:
        """Hand in a job as the front door does."""
        sent = msgspec.msgpack.encode(InferenceInputs(tensors=[[InputTensor(data=data)] for data in inputs]))
        new = NewJob(job=InferenceJob(model=model), deadline_s=60, attempts_max=4, attachment=sent)
        with self.database.write() as connection:
            record = self.ledger.submit(connection, new, waiting_max=100, streams=1)
        self.dispatcher.send(record)
        return record.id

    def until(self, job_id: str, is_so: Callable[[JobRecord], bool]) -> JobRecord:
        """Sweep until a job is as wanted."""
        deadline = time.monotonic() + 40
        while not is_so(record := self.ledger.get(job_id)):
            assert time.monotonic() < deadline, record
            sweep(self.ledger, self.dispatcher.send_or_leave, self.dispatcher.pending, resend_after_s=0.5)
            time.sleep(0.02)
        return record

    def result(self, job_id: str) -> tuple[InferenceResult, JobRecord]:
        """How a job ended well."""
        record = self.until(job_id, lambda job: job.ended)
        logs = "".join(path.read_text() for path in sorted(self.data_dir.glob("stage*.log")))
        assert record.state == "done", f"{record.error}\n{logs}"
        return msgspec.json.decode(record.result or "", type=InferenceResult), record


@pytest.fixture
def staged(
    tmp_path: Path, shared_redis: RedisServer, migrated_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Staged]:
    """No stage runs yet."""
    double = Double(compile_double(tmp_path), tmp_path, ",".join(f"usb:{number}" for number in range(5)))
    made = Staged(tmp_path, shared_redis.url, migrated_file, double)
    yield made
    for device in list(made.processes):
        made.end(device)
    made.database.dispose()
    made.dispatcher.redis.close()


def three_segments(folder: Path) -> None:
    """A compiled model in three segments."""
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("input", (1, 8, 8, 3)),
        ("a", (1, 10)),
        ("b", (1, 10)),
        ("c", (1, 4)),
    ]
    for number in range(3):
        path = folder / f"three_segment_{number}_of_3_edgetpu.tflite"
        tiny_tflite.compiled(path, inputs=[tensors[number]], outputs=[tensors[number + 1]])


def pictures(first: int) -> list[bytes]:
    """Inputs that are all different."""
    return [bytes([first + number] + [0] * (PICTURE_BYTES - 1)) for number in range(INPUTS)]


def expected(data: bytes) -> list[int]:
    """What three doubles, usb:0 to usb:2, make of an input one after the other."""
    first = sum(data) % 256
    second = (10 * first + 1) % 256
    return [(10 * second + 2) % 256] * 4


def values(result: InferenceResult) -> list[list[int]]:
    """The first output of each input."""
    return [list(one[0].data) for one in result.outputs]


def began_beside_others(double: Double) -> list[int]:
    """For each call, how many other devices were at work when it began."""
    busy: set[str] = set()
    beside = []
    for one in double.told("began", "computed"):
        device = one.about.split()[0]
        if one.what == "began":
            beside.append(len(busy - {device}))
            busy.add(device)
        else:
            busy.discard(device)
    return beside


def test_stages_work_at_once_and_outlive_each_other(staged: Staged) -> None:
    """Three devices overlap; then each stage in turn is killed in the middle of a job, which ends once and complete."""
    three_segments(staged.data_dir / "models")
    devices = (0, 1, 2)
    staged.start("three", devices, 2, 0, 1)  # in any order
    given = pictures(0)
    result, record = staged.result(staged.submit("three", given))
    assert values(result) == [expected(data) for data in given]
    assert record.attempts == 1
    beside = began_beside_others(staged.double)
    assert len(beside) == len(devices) * INPUTS
    assert max(beside) == len(devices) - 1, "all three at once"
    assert sum(map(bool, beside)) > len(beside) / 2, "and not now and then: one after the other, none would"
    workers = {process.pid: f"usb:{device}" for device, process in staged.processes.items()}
    assert {one.pid: one.about for one in staged.double.told("open") if one.pid in workers} == workers
    for stage in (1, 2, 0):
        given = pictures(stage * INPUTS)
        job_id = staged.submit("three", given)
        staged.until(job_id, lambda job: job.state == "running")
        staged.end(stage, signal.SIGKILL)
        staged.start("three", devices, stage)
        result, record = staged.result(job_id)
        assert values(result) == [expected(data) for data in given]
        assert record.attempts == 2, f"stage {stage} was lost once"
    waiting = staged.ledger.load("media")
    assert (waiting.queued, waiting.running) == (0, 0)


def test_the_real_two_segment_pipeline(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's SSD MobileNet in two segments, its boxes made on the CPU at the end: as both run in one process.

    What the double computes are no detections, so the devices' own records are compared, call by call.
    """
    files = [coral(f"pipeline/{SSD}_segment_{number}_of_2_edgetpu.tflite") for number in range(2)]
    for path in files:
        shutil.copy(path, staged.data_dir / "models")
    staged.start(SSD, (3, 4), 0, 1)
    numbers = np.random.default_rng(3)
    given = [numbers.integers(0, 256, (1, 300, 300, 3), dtype=np.uint8) for _ in range(4)]
    result, _ = staged.result(staged.submit(SSD, [data.tobytes() for data in given]))
    for device in (3, 4):
        staged.end(device)
    in_stages = sorted(one.about for one in staged.double.told("computed"))
    for name, value in staged.double.environment.items():
        monkeypatch.setenv(name, value)
    parts = [
        Runtime(Device(f"usb:{index}", "edgetpu", index), str(staged.double.library)).load(path)
        for index, path in zip((3, 4), files, strict=True)
    ]
    for data, outputs in zip(given, result.outputs, strict=True):
        tensors: dict[str, Any] = {parts[0].inputs[0].name: data}
        for part in parts:
            made = part.run([tensors[spec.name] for spec in part.inputs])
            tensors |= {spec.name: tensor for spec, tensor in zip(part.outputs, made, strict=True)}
        assert [(one.name, tuple(one.shape)) for one in outputs] == [(one.name, one.shape) for one in parts[1].outputs]
        detections = np.frombuffer(outputs[3].data, outputs[3].dtype)
        np.testing.assert_array_equal(detections, tensors[outputs[3].name])
    in_one_process = sorted(one.about for one in staged.double.told("computed"))
    assert len(in_stages) == len(parts) * len(given)
    assert in_one_process == sorted(in_stages * 2)
