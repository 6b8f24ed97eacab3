"""A device of a media pool that fails, takes its process with it, and hangs."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from edgetpu_double import Double, compile_double
from whole_product import SIMULATED_QUEUES, Reef, running_reef

from bench import tiny_tflite

QUEUES = (
    SIMULATED_QUEUES
    + """
  media:
    queue: media
    devices: [usb:0]
    limits: {deadline_s: 60, attempts_max: 6, lease_s: 5, hang_s: 1, drain_s: 1}
"""
)
PICTURE_BYTES = 8 * 8 * 3


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Reef, Double]]:
    """The product with an Edge TPU that fails, aborts and hangs, each once."""
    tiny_tflite.compiled(tmp_path / "data" / "models" / "tiny_edgetpu.tflite")
    double = Double(compile_double(tmp_path), tmp_path, "usb:0")
    once = tmp_path / "once"
    once.mkdir()
    faults = {"FAIL_AT": "3", "ABORT_AT": "6", "HANG_AT": "7", "ONCE": str(once)}
    for name, value in (
        double.environment | {f"EDGETPU_DOUBLE_{name}": value for name, value in faults.items()}
    ).items():
        monkeypatch.setenv(name, value)
    with running_reef(tmp_path, QUEUES, edgetpu_library=str(double.library)) as reef:
        yield reef, double


def test_a_job_outlives_a_device_that_fails_aborts_and_hangs(faulty: tuple[Reef, Double]) -> None:
    """An error, SIGABRT from inside the library, a call that never returns: one answer, complete and in order."""
    reef, double = faulty
    inputs = [bytes([number] * PICTURE_BYTES) for number in range(10)]
    tensors = [[{"data": base64.b64encode(data).decode()}] for data in inputs]
    with reef.client() as client:
        answer = client.post("/api/v1/inference", json={"model": "tiny", "inputs": tensors})
    assert answer.status_code == 200, answer.text
    made = [base64.b64decode(one[0]["data"])[0] for one in answer.json()["outputs"]]
    assert made == [number * PICTURE_BYTES % 256 for number in range(10)]
    with sqlite3.connect(reef.data_dir / "reef.db") as database:
        rows = database.execute("SELECT state, attempts FROM jobs").fetchall()
    database.close()
    assert rows == [("done", 4)], "it failed once, its worker died twice"
    assert len(double.told("open")) == 6, "one worker after the other had the device, each after it was tried"
    assert "Timeout" in (reef.data_dir / "logs" / "media-usb-0.hang").read_text(), "the watchdog left the stacks"
