"""All kinds of devices: from a device of queues.yaml to what opens it, and what this machine has. Opens nothing."""

from __future__ import annotations

from pathlib import Path

from reef.settings import Settings
from reef.topology import Device
from workers.devices import cpu, cuda, edgetpu, remote, simulated
from workers.devices.base import Found, Kind
from workers.devices.cpu import CpuConfig
from workers.devices.cuda import CudaConfig
from workers.devices.edgetpu import Bus, EdgeTpuConfig
from workers.devices.first_open import ask
from workers.devices.remote import RemoteConfig
from workers.devices.simulated import SimulatedConfig, control_file

DeviceConfig = EdgeTpuConfig | CpuConfig | CudaConfig | RemoteConfig | SimulatedConfig
"""What a kind needs to be opened; as JSON told apart by `type`."""
EDGE_TPU_BUSES: dict[str, Bus] = {"pci": "pci", "usb": "usb"}


def config_of(settings: Settings, device: Device) -> DeviceConfig:
    """The config of a device of queues.yaml."""
    root = str(settings.device_root)
    if device.kind == "edgetpu":
        bus = EDGE_TPU_BUSES[device.name.partition(":")[0]]
        return EdgeTpuConfig(name=device.name, bus=bus, index=device.index, library=settings.edgetpu_library, root=root)
    if device.kind == "cuda":
        return CudaConfig(index=device.index, root=root)
    if device.kind == "remote":
        return RemoteConfig(url=settings.remote_url, api_key=settings.remote_api_key)
    if device.kind == "simulated":
        return SimulatedConfig(name=device.name, control=str(control_file(settings.data_dir, device.name)))
    return CpuConfig(root=root)


def kind_of(config: DeviceConfig) -> Kind:
    """What opens it and knows how it feels."""
    match config:
        case EdgeTpuConfig():
            return edgetpu.EdgeTpu(config, ask)
        case CudaConfig():
            return cuda.Cuda(config)
        case RemoteConfig():
            return remote.Remote(config)
        case SimulatedConfig():
            return simulated.Simulated(config)
        case CpuConfig():
            return cpu.Cpu(config)


def discover(root: Path, remote_url: str = "") -> list[Found]:
    """All devices of this machine, by file reads only. A simulated device is never found: it is not there."""
    return [*edgetpu.discover(root), *cuda.discover(root), *cpu.discover(root), *remote.discover(remote_url)]
