"""Processors, GPUs, servers and simulated devices: what each tells, and nothing that it does not."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from reef.contracts.nodes import DeviceHealth
from reef.ports import EngineError
from reef.settings import Settings
from reef.topology import Device, load_topology
from workers.devices import cuda
from workers.devices.base import DeviceFault, Opened
from workers.devices.cpu import Cpu, CpuConfig
from workers.devices.cuda import Cuda, CudaConfig
from workers.devices.registry import DeviceConfig, config_of, discover, kind_of
from workers.devices.remote import Remote, RemoteConfig
from workers.devices.simulated import control_file
from workers.engines.select import choose_engine, environment

UUID = "GPU-5a3e1f0c-1111-2222-3333-444455556666"
ANSWERS = {"data": [{"id": f"model-{n}"} for n in range(7)]}


def test_each_kind_has_a_config_of_its_own(tmp_path: Path) -> None:
    """As JSON they are told apart by `type`, and read back as what they were."""
    settings = Settings(data_dir=tmp_path, remote_url="http://127.0.0.1:1/v1")
    devices = [
        Device("pci:3", "edgetpu", index=3),
        Device("cpu:0-1", "cpu", cores=(0, 1)),
        Device("cuda:1", "cuda", index=1),
        Device("remote", "remote"),
        Device("simulated:5", "simulated", index=5),
    ]
    for device in devices:
        config = config_of(settings, device)
        raw = msgspec.json.encode(config)
        assert json.loads(raw)["type"] == device.kind
        assert msgspec.json.decode(raw, type=DeviceConfig) == config
        assert type(kind_of(config)).__name__.lower() == device.kind


def test_a_processor_tells_its_heat_where_it_has_a_sensor(tmp_path: Path) -> None:
    """Other zones are other parts of the machine; without a sensor nothing is made up."""
    assert Cpu(CpuConfig(root=str(tmp_path))).health() == DeviceHealth()
    for number, kind in ((0, "acpitz"), (1, "x86_pkg_temp")):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{30000 + number * 22500}\n")
        (zone / "trip_point_0_type").write_text("critical\n")
        (zone / "trip_point_1_type").write_text("passive\n")
        (zone / "trip_point_1_temp").write_text("95000\n")
    health = Cpu(CpuConfig(root=str(tmp_path))).health()
    assert (health.temperature_c, health.temperature_limit_c, health.throttled) == (52.5, 95.0, None)


@pytest.fixture
def gpu_root(tmp_path: Path) -> Path:
    """A machine with one GPU, as the driver's files tell it."""
    place = tmp_path / "proc/driver/nvidia/gpus/0000:3b:00.0"
    place.mkdir(parents=True)
    text = f"Model: \t\t NVIDIA L4\nIRQ:   \t\t 64\nGPU UUID: \t {UUID}\nBus Location: \t 0000:3b:00.0\n"
    (place / "information").write_text(text)
    return tmp_path


def test_a_gpu_serves_only_with_an_engine_for_it(gpu_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its files; what is missing is said, be it the GPU, the engine, or the same GPU as before."""
    found = next(one for one in discover(gpu_root) if one.kind == "cuda")
    assert (found.name, found.title, found.identity) == ("cuda:0", "NVIDIA L4", UUID)
    assert "no CUDA build" in found.problem
    device = Cuda(CudaConfig(index=0, root=str(gpu_root)))
    with pytest.raises(DeviceFault, match=r"cuda:0 \(NVIDIA L4\) cannot serve: no CUDA build"):
        device.open("", frozenset())
    with pytest.raises(DeviceFault, match=r"There is no cuda:1; the NVIDIA driver has: cuda:0 NVIDIA L4"):
        Cuda(CudaConfig(index=1, root=str(gpu_root))).open("", frozenset())
    with pytest.raises(DeviceFault, match="was GPU-other"):
        device.open("GPU-other", frozenset())
    monkeypatch.setattr(cuda, "engine_built", lambda: True)
    assert device.open(UUID, frozenset()) == Opened("cuda:0", UUID)


def test_a_cuda_build_is_told_from_another_by_reading_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is loaded for it."""
    package = tmp_path / "xllamacpp"
    package.mkdir()
    (package / "__init__.py").touch()
    library = package / "xllamacpp.abi3.so"
    library.write_bytes(b"\x7fELF cpu only")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    assert not cuda.engine_built()
    library.write_bytes(b"\x7fELF" + bytes(5000) + b"ggml_cuda_init\0")
    assert cuda.engine_built()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (f"{UUID}, 61, 2048, 23034, Not Active, Active\n", (61.0, True, 2048 << 20, 23034 << 20)),
        (f"{UUID}, 40, [N/A], [N/A], Not Active, Not Active\n", (40.0, False, None, None)),
        (f"{UUID}, [N/A], 1, 2, [N/A], [N/A]\n", (None, None, 1 << 20, 2 << 20)),
        ("No devices were found\n", (None, None, None, None)),
    ],
)
def test_a_gpu_s_health_is_nvidia_smi_s_word(
    gpu_root: Path, monkeypatch: pytest.MonkeyPatch, told: str, expected: tuple[object, ...]
) -> None:
    """A field that this GPU does not have stays empty."""
    program = gpu_root / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf '%s' '{told}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    health = Cuda(CudaConfig(index=0, root=str(gpu_root))).health()
    assert (health.temperature_c, health.throttled, health.memory_used_bytes, health.memory_total_bytes) == expected
    assert (health.identity, health.link) == (UUID, "PCIe 0000:3b:00.0")


def test_a_gpu_gets_the_engine_that_can_use_it(tmp_path: Path) -> None:
    """`auto` never runs a GPU's pool on the processor in silence; its worker sees no other GPU."""
    path = tmp_path / "queues.yaml"
    path.write_text(
        "version: 1\npools:\n  chat: {queue: c, devices: [cuda:1]}\n  embed: {queue: e, devices: [cuda:2]}\n"
    )
    topology = load_topology(path)
    chat, embed = topology.pool("chat"), topology.pool("embed")
    assert environment(chat, chat.devices[0]).items() >= {("CUDA_VISIBLE_DEVICES", "1")}
    with pytest.raises(EngineError, match="No engine of pool embed uses a GPU"):
        choose_engine(Settings(data_dir=tmp_path), embed, embed.devices[0])


class _Models(BaseHTTPRequestHandler):
    """Lists models to who has the key."""

    def do_GET(self) -> None:
        known = self.path == "/v1/models" and self.headers["Authorization"] == "Bearer secret"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(ANSWERS).encode() if known else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server that speaks enough of the protocol."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Models) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://user:pass@127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_a_server_tells_its_models_or_why_not(server: str) -> None:
    """Its health names what it offers; what is wrong is said without its password."""
    clean = server.replace("user:pass@", "")
    health = Remote(RemoteConfig(url=clean, api_key="secret")).health()
    assert health.note == "models: model-0, model-1, model-2, model-3, model-4 and 2 more"
    refused = Remote(RemoteConfig(url=server)).health()
    assert refused.note == "does not answer: HTTP 401"
    assert "pass" not in refused.link
    with socket.socket() as taken:  # and not listened to: nobody else can have it meanwhile
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "does not answer" in Remote(RemoteConfig(url=url)).health().note
    assert Remote(RemoteConfig(url="")).health().note == "does not answer: REEF_REMOTE_URL is not set"


def test_a_simulated_device_does_what_its_file_says(tmp_path: Path) -> None:
    """Each time anew; it never looks like a real one, and is never found."""
    settings = Settings(data_dir=tmp_path)
    device = kind_of(config_of(settings, Device("simulated:3", "simulated", index=3)))
    assert device.open("", frozenset()) == Opened("simulated:3", "simulated simulated:3")
    assert device.health() == DeviceHealth(identity="simulated simulated:3", link="simulated")
    control = control_file(tmp_path, "simulated:3")
    control.parent.mkdir()
    control.write_text("temperature 71.5\nlimit 70\n")
    health = device.health()
    assert (health.temperature_c, health.temperature_limit_c, health.throttled) == (71.5, 70.0, True)
    control.write_text("absent\n")
    with pytest.raises(DeviceFault, match="simulated:3 is absent"):
        device.open("", frozenset())
    assert [one for one in discover(tmp_path) if one.kind == "simulated"] == []


def test_a_simulated_device_ends_its_worker_when_it_is_told_to(tmp_path: Path) -> None:
    """As a driver does it."""
    code = (
        "import sys\nfrom workers.devices.simulated import *\n"
        "device = Simulated(SimulatedConfig(name='simulated', control=sys.argv[1]))\n"
        "device.health()\ndevice.open('', ())\nprint('open', flush=True)\ndevice.health()\n"
    )
    control = tmp_path / "simulated"
    control.write_text("abort\n")
    done = subprocess.run(
        [sys.executable, "-c", code, str(control)], cwd=Path(__file__).parents[3], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (-6, b"open\n")
