"""A media pool on Edge TPUs, played by the double: real workers, each with the real runtime and its own device."""

from __future__ import annotations

import base64
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from coral import coral, coral_files
from edgetpu_double import Double, compile_double
from whole_product import SIMULATED_QUEUES, Reef, running_reef

from bench import tiny_tflite
from reef.topology import load_topology

ROOT = Path(__file__).parents[2]
QUEUES = (
    SIMULATED_QUEUES
    + """
  media:
    queue: media
    devices: [usb:0, usb:1, pci:5]
    streams: 2
    limits: {waiting_max: 64, deadline_s: 60, attempts_max: 3, lease_s: 5, hang_s: 10, drain_s: 2}
"""
)
PICTURE_BYTES = 8 * 8 * 3
PATIENCE_S = 30.0
BOTH = ("media-usb-0", "media-usb-1")
Devices = tuple[Reef, Double]


@pytest.fixture(scope="module")
def tpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    """The product with two Edge TPUs that are there and one that is not."""
    folder = tmp_path_factory.mktemp("tpus")
    models = folder / "data" / "models"
    tiny_tflite.compiled(models / "tiny_edgetpu.tflite")
    (models / "tiny.txt").write_text("\n".join(f"class {number}" for number in range(10)), encoding="utf-8")
    tiny_tflite.chain(models / "plain.tflite")
    for path in coral_files("*_edgetpu.tflite") + coral_files("tools/*_edgetpu.tflite"):
        shutil.copy(path, models)
    double = Double(compile_double(folder), folder, "usb:0,usb:1")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (double.environment | {"EDGETPU_DOUBLE_MS": "20"}).items():
            patch.setenv(name, value)
        with running_reef(folder, QUEUES, edgetpu_library=str(double.library)) as reef:
            yield reef, double


def ask(reef: Reef, model: str, *inputs: list[bytes], **fields: Any) -> httpx.Response:
    """Ask for inferences; each input has its tensors."""
    tensors = [[{"data": base64.b64encode(data).decode()} | fields for data in one] for one in inputs]
    with reef.client() as client:
        return client.post("/api/v1/inference", json={"model": model, "inputs": tensors})


def run(reef: Reef, model: str, *inputs: bytes, **fields: Any) -> httpx.Response:
    """Ask for inferences of a model with one tensor."""
    return ask(reef, model, *([data] for data in inputs), **fields)


def by_device(reef: Reef, model: str, *tensors: bytes) -> dict[str, dict[str, Any]]:
    """The answer of each device, asked side by side until both had a turn."""
    found: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + PATIENCE_S
    with ThreadPoolExecutor(4) as pool:
        while len(found) < 2:
            assert time.monotonic() < deadline, f"only {', '.join(found)} answered"
            for answer in pool.map(lambda _: ask(reef, model, list(tensors)), range(4)):
                assert answer.status_code == 200, answer.text
                found[answer.json()["device"]] = answer.json()
    return found


def numbers(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The first output of the first input."""
    tensor = answer["outputs"][0][0]
    return np.frombuffer(base64.b64decode(tensor["data"]), tensor["dtype"]).reshape(tensor["shape"])


def test_each_worker_opens_its_own_device_and_no_other(tpus: Devices) -> None:
    """The library is asked for exactly the string of queues.yaml, once, by the worker of that device.

    Before that a process of its own opened it, to see whether the library survives it.
    """
    reef, double = tpus
    pids = {name: pid for name, pid in reef.processes.pids().items() if name.startswith("media-")}
    opened = [(one.pid, one.about) for one in double.told("open")]
    workers = [(pids["media-usb-0"], "usb:0"), (pids["media-usb-1"], "usb:1")]
    assert sorted(one for one in opened if one[0] in pids.values()) == sorted(workers)
    assert sorted(about for pid, about in opened if pid not in pids.values()) == ["usb:0", "usb:1"]
    assert {one.about for one in double.told("absent")} == {"pci:5"}


def test_the_answer_is_the_device_s(tpus: Devices) -> None:
    """Two devices compute differently here: what each answered is its own work, and says whose."""
    reef, _ = tpus
    data = bytes(range(PICTURE_BYTES))
    answers = by_device(reef, "tiny", data)
    for device, index in (("usb:0", 0), ("usb:1", 1)):
        assert numbers(answers[device]).tolist() == [[(sum(data) + index) % 256] * 10]
        assert answers[device]["outputs"][0][0]["name"] == "scores"


def test_an_absent_device_is_left_alone_and_told(tpus: Devices) -> None:
    """The operator sees which device and why, and that it is tried again; the others serve."""
    reef, _ = tpus
    pools = {pool["name"]: pool for pool in reef.get("/api/v1/system/status")["pools"]}
    device = next(one for one in pools["media"]["devices"] if one["node"] == "media-pci-5")
    assert device["state"] in ("quarantined", "loading")  # it is tried again now and then
    assert "gives no device pci:5: absent, or held by another process" in device["last_fault"]


def test_two_processes_never_open_one_device(tpus: Devices) -> None:
    """A worker that is started for a device somebody owns ends, and the owner goes on."""
    reef, double = tpus
    code = (
        "import sys; from workers.engines.tflite_runtime import Runtime; from reef.topology import Device\n"
        "Runtime(Device('usb:1', 'edgetpu', 1), sys.argv[1])"
    )
    second = subprocess.run(
        [sys.executable, "-c", code, double.library], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert "The Edge TPU usb:1 cannot be opened: Failed to load delegate" in second.stderr
    assert [one.about for one in double.told("busy")] == ["usb:1"]
    assert run(reef, "tiny", bytes(PICTURE_BYTES)).status_code == 200


def test_queues_yaml_gives_a_device_once(tmp_path: Path) -> None:
    """The same device twice is refused before anything starts."""
    path = tmp_path / "queues.yaml"
    path.write_text(QUEUES.replace("usb:1", "usb:0"), encoding="utf-8")
    with pytest.raises(ValueError, match="usb:0 is named twice"):
        load_topology(path)


def model_view(reef: Reef, name: str, *where: str) -> dict[str, Any]:
    """The model in the list, once it is loaded there, or nowhere."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found: dict[str, Any] = next(one for one in reef.get("/api/v1/system/models")["models"] if one["name"] == name)
        if set(where) <= set(found["where"]) and bool(where) == bool(found["where"]):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_what_an_inference_loaded_is_told_kept_and_let_go(tpus: Devices) -> None:
    """No place names the model: it is READY all the same, its file stays, and unloading takes it out of the memory."""
    reef, _ = tpus
    by_device(reef, "tiny", bytes(PICTURE_BYTES))
    found = model_view(reef, "tiny_edgetpu", *BOTH)  # who has not told it yet would not be asked to let it go
    assert (found["state"], found["stays"]) == ("READY", "is in a device's memory")
    with reef.client() as client:
        refused = client.delete("/api/v1/system/models/tiny_edgetpu")
        assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
        asked = {"model": "tiny_edgetpu", "pool": "media"}
        left = client.post("/api/v1/system/models/unload", json=asked).json()["nodes"]
        assert set(left) == set(BOTH)
        found = model_view(reef, "tiny_edgetpu")
        assert (found["state"], found["stays"]) == ("CACHED", "")
        again = client.post("/api/v1/system/models/unload", json=asked)
        assert (again.status_code, again.json()["code"]) == (409, "not_loaded")
    assert run(reef, "tiny", bytes(PICTURE_BYTES)).status_code == 200, "it is loaded again"


def test_many_inputs_come_back_in_order(tpus: Devices) -> None:
    """A request of many inputs is one job, and each output is its input's."""
    reef, _ = tpus
    inputs = [bytes([number] * PICTURE_BYTES) for number in range(20)]
    answer = run(reef, "tiny", *inputs).json()
    index = int(answer["device"].partition(":")[2])
    made = [np.frombuffer(base64.b64decode(one[0]["data"]), np.uint8)[0] for one in answer["outputs"]]
    assert made == [(number * PICTURE_BYTES + index) % 256 for number in range(20)]
    assert answer["device_s"] >= 20 * 0.02


def test_pictures_are_labelled(tpus: Devices) -> None:
    """A picture file becomes the model's input, and its scores the labels that stand beside the model."""
    from io import BytesIO

    from PIL import Image

    reef, _ = tpus
    file = BytesIO()
    Image.new("RGB", (40, 20), (10, 20, 30)).save(file, "PNG")
    with reef.client() as client:
        files = [("file", ("a.png", file.getvalue())), ("file", ("b.png", file.getvalue()))]
        answer = client.post("/api/v1/inference/pictures", data={"model": "tiny", "top_k": "3"}, files=files).json()
        index = int(answer["device"].partition(":")[2])
        score = round((64 * (10 + 20 + 30) + index) % 256 / 256, 6)
        assert (
            answer["labels"]
            == [[{"label": f"class {number}", "index": number, "score": score} for number in range(3)]] * 2
        )
        bad = client.post(
            "/api/v1/inference/pictures", data={"model": "tiny"}, files={"file": ("a.png", b"no picture")}
        )
        assert (bad.status_code, bad.json()["code"]) == (422, "refused")
        assert "Picture 0 cannot be read as a picture (JPEG, PNG" in bad.json()["detail"]
        plain = client.post("/api/v1/inference/pictures", json={"model": "tiny"})
        assert (plain.status_code, plain.json()["code"]) == (415, "not_multipart")
        empty = client.post("/api/v1/inference/pictures", data={"model": "tiny"}, files={"other": ("a", b"a")})
        assert (empty.status_code, empty.json()["code"]) == (400, "no_files")
        strange = client.post("/api/v1/inference/pictures", data={"model": "tiny", "top_k": "many"}, files=files)
        assert (strange.status_code, strange.json()["code"]) == (400, "invalid")


@pytest.mark.parametrize(
    ("model", "size", "fields", "says"),
    [
        ("nothing", 0, {}, "There is no model 'nothing' in"),
        ("plain", 64, {}, "plain.tflite is not compiled for an Edge TPU"),
        ("tiny", 5, {}, "Input 0: 5 bytes do not fit 'input' (uint8 [1, 8, 8, 3]): 192 are needed."),
        ("tiny", 192, {"shape": [1, 3, 8, 8]}, "shape [1, 3, 8, 8] does not fit 'input' (uint8 [1, 8, 8, 3])"),
        ("tiny", 192, {"dtype": "int8"}, "dtype 'int8' does not fit 'input'"),
        ("tiny", 192, {"name": "picture"}, "has no tensor 'input'; tiny reads 'input'"),
    ],
)
def test_what_a_model_cannot_read_is_refused(
    tpus: Devices, model: str, size: int, fields: dict[str, Any], says: str
) -> None:
    """The answer says which input, what was expected, and what to do; nothing is tried a second time."""
    reef, _ = tpus
    answer = run(reef, model, bytes(size), **fields)
    assert (answer.status_code, answer.json()["code"]) == (422, "refused")
    assert says in answer.json()["detail"]
    run_view = reef.get(f"/api/v1/runs/{answer.json()['run_id']}")
    assert (run_view["state"], run_view["attempts"]) == ("failed", 1)


def test_limits_and_base64(tpus: Devices) -> None:
    """Too many inputs, a body that is too long, what is not base64: refused at the door."""
    reef, _ = tpus
    assert run(reef, "tiny", *[b""] * 257).status_code == 400
    assert run(reef, "tiny", bytes(7 << 20)).status_code == 413
    with reef.client() as client:
        body = {"model": "tiny", "inputs": [[{"data": "!"}]]}
        answer = client.post("/api/v1/inference", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "inputs[0][0].data")


def test_what_was_sent_is_forgotten(tpus: Devices) -> None:
    """A finished or refused job soon keeps neither inputs nor outputs in the database."""
    reef, _ = tpus
    run(reef, "tiny", bytes(PICTURE_BYTES))
    run(reef, "nothing", bytes(PICTURE_BYTES))
    deadline = time.monotonic() + PATIENCE_S
    with closing(sqlite3.connect(reef.data_dir / "reef.db")) as database:
        results = database.execute("SELECT result FROM jobs WHERE task = 'coralreef.media.infer'").fetchall()
        assert results
        assert set(results) == {(None,)}
        while database.execute("SELECT count(*) FROM attachments").fetchone() != (0,):
            assert time.monotonic() < deadline, "the sweeper looks twice a second"
            time.sleep(0.05)


@pytest.mark.parametrize(
    "name",
    [
        "keras_lstm_mnist_ptq",
        "mobilenet_v1_0.25_128_quant",
        "mobilenet_v1_1.0_224_quant_embedding_extractor",
        "tools/split_concat",
    ],
)
def test_real_compiled_models_run_on_each_device(tpus: Devices, name: str) -> None:
    """Files of Google's compiler go through the same path, with one input or three."""
    coral(f"{name}_edgetpu.tflite")
    reef, _ = tpus
    sizes = {"keras_lstm_mnist_ptq": [784], "tools/split_concat": [192, 64, 128]}.get(name, [sides(name) ** 2 * 3])
    answers = by_device(reef, name.rpartition("/")[2], *(bytes([1]) * size for size in sizes))
    assert ((numbers(answers["usb:1"]) - numbers(answers["usb:0"])) == 1).all(), "in numbers of one byte"


def sides(name: str) -> int:
    """Pixels a side of a classifier's picture, as its name says."""
    return 128 if "_128_" in name else 224
