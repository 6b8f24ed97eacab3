"""queues.yaml: which pools there are, which devices serve them and under which limits. Parsed nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta

from reef import abilities
from reef.allocation import Allocation

EngineKind = Literal["auto", "openvino", "llama", "tflite", "parser", "remote", "simulated"]
DeviceKind = Literal["cpu", "edgetpu", "cuda", "remote", "simulated"]

DEVICES_MAX = 1024
"""Longest range of devices that is taken for meant."""

_DEVICE = re.compile(
    r"^(?:(?P<cpu>cpu)(?::(?P<cores>\d+(?:-\d+)?))?"
    r"|(?P<tpu>usb|pci):(?P<tpu_index>\d+)"
    r"|(?P<other>cuda|remote|simulated)(?::(?P<index>\d+))?)"
    r"(?:@(?P<host>[a-z0-9][a-z0-9-]*))?$"
)
_RANGE = re.compile(r"^(?P<kind>usb|pci|cuda|simulated):(?P<first>\d+)-(?P<last>\d+)(?P<host>@[a-z0-9][a-z0-9-]*)?$")
_NAME = r"^[a-z][a-z0-9_-]{0,31}$"
CHAT_POOL = abilities.CHAT_POOL
MAINTENANCE_POOL = "maintenance"
"""Fetches models, on whatever device: none of its answers is a simulated one."""
T = TypeVar("T")


class TopologyError(ValueError):
    """queues.yaml cannot be used; the message names the file, the line and what is expected there."""


class Device(msgspec.Struct, frozen=True):
    """One device of one pool. `name` is the string in queues.yaml without its host."""

    name: str
    kind: DeviceKind
    index: int = 0
    cores: tuple[int, ...] = ()
    """CPU cores the worker is pinned to; empty: all of them."""
    host: str = ""
    """Empty: the machine that runs `coral-reef up`."""

    @property
    def address(self) -> str:
        """The device as queues.yaml writes it, with its host: what names it on a command line."""
        return f"{self.name}@{self.host}" if self.host else self.name

    @property
    def node(self) -> str:
        """Name of the worker process of a device that a strategy gives out: it belongs to no pool for good."""
        base = self.name.replace(":", "-")
        return f"{base}.{self.host}" if self.host else base


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds of a pool. Every queue has one and says so when it is reached."""

    waiting_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    """Jobs that may wait; the next one is answered 429."""
    deadline_s: Annotated[float, Meta(gt=0)] = 600.0
    """A job that has not ended this long after it was accepted fails."""
    attempts_max: Annotated[int, Meta(ge=1, le=100)] = 3
    """Starts of one job before it goes to the dead list."""
    lease_s: Annotated[float, Meta(ge=0.5)] = 5.0
    """A worker that shows no progress this long loses its job to another."""
    hang_s: Annotated[float, Meta(ge=1)] = 60.0
    """A single call of the device that lasts longer ends the worker process."""
    tokens_max: Annotated[int, Meta(ge=1)] = 1024
    """Longest reply, in tokens."""
    drain_s: Annotated[float, Meta(ge=0)] = 10.0
    """How long a stopping worker lets its running jobs finish before it hands them back."""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A queue and the devices that serve it."""

    name: str
    queue: str
    devices: tuple[Device, ...]
    engine: EngineKind
    model: str
    streams: int
    context_tokens: int
    nice: int
    affinity: bool
    limits: Limits
    cpu_fallback: bool = False
    """While a device is out of use after faults, its worker serves on the CPU."""

    def node(self, device: Device) -> str:
        """Name of the worker process of a device: unique in the reef, safe in keys and file names."""
        base = f"{self.name}-{device.name.replace(':', '-')}"
        return f"{base}.{device.host}" if device.host else base

    def device(self, name: str) -> Device:
        """The device of that name (with or without its host). Raises KeyError naming the pool's devices."""
        for device in self.devices:
            if name == device.address:
                return device
        for device in self.devices:
            if name == device.name:
                return device
        known = ", ".join(d.name for d in self.devices) or "none"
        raise KeyError(f"pool {self.name} has no device {name!r}; queues.yaml gives it: {known}")


class Topology(msgspec.Struct, frozen=True):
    """All pools, by name, and the devices that a strategy gives out among them."""

    pools: dict[str, Pool]
    allocation: Allocation | None = None
    """None: every pool has the devices it names, and keeps them."""
    allocated: tuple[Device, ...] = ()
    """Devices of the allocation, in the order of queues.yaml; none of them is named by a pool."""
    impossible: tuple[str, ...] = ()
    """What the file asks of devices that cannot do it, each with its line: `doctor` tells, the worker refuses."""

    def pool(self, name: str) -> Pool:
        """The pool of that name. Raises KeyError naming the pools there are."""
        try:
            return self.pools[name]
        except KeyError:
            raise KeyError(f"no pool {name!r} in queues.yaml; there are: {', '.join(self.pools)}") from None

    def able(self, device: Device) -> dict[str, int]:
        """The pools that a device of this kind can serve, with how well that suits it (reef/abilities.py)."""
        return _able(self.pools, device)


class _PoolEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pool as written in the file."""

    queue: Annotated[str, Meta(pattern=_NAME)]
    devices: list[str] = []
    engine: EngineKind = "auto"
    model: str = ""
    streams: Annotated[int, Meta(ge=1, le=256)] = 1
    context_tokens: Annotated[int, Meta(ge=256, le=1_048_576)] = 4096
    nice: Annotated[int, Meta(ge=0, le=19)] = 0
    affinity: bool = True
    cpu_fallback: bool = False
    limits: dict[str, Any] = {}


class _File:
    """The parsed file with the line of every key, so that an error can point at it."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        try:
            self.root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            raise TopologyError(f"{where}: not YAML: {getattr(error, 'problem', error)}.") from None

    def line(self, *keys: str) -> int:
        """Line of the deepest of these nested keys that is in the file."""
        node, line = self.root, 1
        for key in keys:
            if not isinstance(node, yaml.MappingNode):
                break
            for key_node, value_node in node.value:
                if key_node.value == key:
                    node, line = value_node, key_node.start_mark.line + 1
                    break
            else:
                break
        return line

    def error(self, message: str, *keys: str) -> TopologyError:
        return TopologyError(f"{self.path}:{self.line(*keys)}: {message}")


def load_topology(path: Path, model: str = "") -> Topology:
    """Read and check queues.yaml; `model` overrides the chat pool's model. Raises TopologyError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TopologyError(
            f"{path}: cannot be read ({error.strerror}); REEF_QUEUES_FILE names another file."
        ) from None
    file = _File(path, text)
    if not isinstance(file.data, dict) or not isinstance(file.data.get("pools"), dict):
        raise file.error("expected a mapping `pools:` of pool names to their settings.")
    for key in file.data:
        if key not in ("version", "pools", "allocation"):
            raise file.error(f"unknown key {key!r}; expected version, pools and allocation.", str(key))
    if file.data.get("version") != 1:
        raise file.error(f"version is {file.data.get('version')!r}; this program reads version 1.", "version")
    pools = {str(name): _pool(file, str(name), entry, model) for name, entry in file.data["pools"].items()}
    allocation, allocated = _allocation(file, pools)
    _check_unique(file, pools, allocated)
    _check_simulated(file, pools, allocated)
    if allocation is not None:
        _check_allocation(file, allocation, pools, allocated)
    if CHAT_POOL not in pools:
        raise file.error(f"there is no pool `{CHAT_POOL}`; without it no message could be answered.", "pools")
    return Topology(pools, allocation, allocated, tuple(_impossible(file, pools, allocated)))


def _able(pools: dict[str, Pool], device: Device) -> dict[str, int]:
    return abilities.ranks(device.kind, ((pool.name, pool.engine) for pool in pools.values()))


def _impossible(file: _File, pools: dict[str, Pool], allocated: Sequence[Device]) -> Iterator[str]:
    for pool in pools.values():
        kinds = {device.kind: device for device in pool.devices}
        for kind, device in kinds.items():
            if reason := abilities.why_not(pool.name, pool.engine, kind):
                yield str(file.error(f"pool {pool.name}: {device.address}: {reason}", "pools", pool.name, "devices"))
    for device in {one.kind: one for one in allocated}.values():
        if not _able(pools, device):
            yield str(file.error(f"allocation: no pool is for {device.address}.", "allocation", "devices"))


def _allocation(file: _File, pools: dict[str, Pool]) -> tuple[Allocation | None, tuple[Device, ...]]:
    entry = file.data.get("allocation")
    if entry is None:
        return None, ()
    allocation = _convert(file, entry, Allocation, "allocation")
    return allocation, _devices(file, "allocation", allocation.devices, "allocation", "devices")


def _check_allocation(file: _File, allocation: Allocation, pools: dict[str, Pool], devices: Sequence[Device]) -> None:
    try:
        allocation.check([_able(pools, device) for device in devices], pools)
    except ValueError as error:
        raise file.error(f"allocation: {error}", "allocation", allocation.strategy) from None


def _pool(file: _File, name: str, entry: Any, model: str) -> Pool:
    if not re.match(_NAME, name):
        raise file.error(f"pool name {name!r}: lower-case letters, digits, - and _ only.", "pools", name)
    raw = _convert(file, entry, _PoolEntry, "pools", name)
    limits = _convert(file, raw.limits, Limits, "pools", name, "limits")
    devices = _devices(file, f"pool {name}", raw.devices, "pools", name, "devices")
    return Pool(
        name=name,
        queue=raw.queue,
        devices=devices,
        engine=raw.engine,
        model=model if name == "chat" and model else raw.model,
        streams=raw.streams,
        context_tokens=raw.context_tokens,
        nice=raw.nice,
        affinity=raw.affinity,
        limits=limits,
        cpu_fallback=raw.cpu_fallback,
    )


def _convert(file: _File, value: Any, kind: type[T], *keys: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        field = re.search(r"`\$\.(\w+)|unknown field `(\w+)`", message)
        extra = next((part for part in field.groups() if part), "") if field else ""
        where = f"pool {keys[1]}" if keys[0] == "pools" else keys[0]
        raise file.error(f"{where}: {message}.", *keys, extra) from None


def _devices(file: _File, where: str, texts: Iterable[str], *keys: str) -> tuple[Device, ...]:
    """The devices as written, ranges told out: `pci:0-3` is four devices."""
    devices: list[Device] = []
    for text in texts:
        match = _RANGE.match(text)
        if match is None:
            devices.append(_device(file, where, text, *keys))
            continue
        first, last = int(match["first"]), int(match["last"])
        if not 0 <= last - first < DEVICES_MAX:
            raise file.error(f"{where}: the range {text!r} is empty or longer than {DEVICES_MAX} devices.", *keys)
        numbers = range(first, last + 1)
        devices += [_device(file, where, f"{match['kind']}:{n}{match['host'] or ''}", *keys) for n in numbers]
    return tuple(devices)


def _device(file: _File, where: str, text: str, *keys: str) -> Device:
    match = _DEVICE.match(text)
    if match is None:
        raise file.error(
            f"{where}: device {text!r} is unknown; expected cpu, cpu:0, cpu:0-3, usb:0, pci:0, pci:0-7, cuda:0, "
            "remote or simulated, each with @host where it is on another machine.",
            *keys,
        )
    part = match.groupdict()
    name, host = text.partition("@")[0], part["host"] or ""
    if part["cpu"]:
        return Device(name, "cpu", cores=_cores(part["cores"]), host=host)
    if part["tpu"]:
        return Device(name, "edgetpu", index=int(part["tpu_index"]), host=host)
    return Device(name, part["other"], index=int(part["index"] or 0), host=host)  # type: ignore[arg-type]


def _cores(text: str | None) -> tuple[int, ...]:
    if not text:
        return ()
    first, _, last = text.partition("-")
    return tuple(range(int(first), int(last or first) + 1))


def _check_unique(file: _File, pools: dict[str, Pool], allocated: Sequence[Device]) -> None:
    queues: dict[str, str] = {}
    owners: dict[str, str] = {}
    given_out: set[str] = set()
    for device in allocated:
        if device.address in given_out or any(device in pool.devices for pool in pools.values()):
            raise file.error(
                f"allocation: device {device.address} is named twice: one device, one process.", "allocation", "devices"
            )
        given_out.add(device.address)
    for pool in pools.values():
        other = queues.setdefault(pool.queue, pool.name)
        if other != pool.name:
            raise file.error(f"queue {pool.queue!r} already belongs to pool {other}.", "pools", pool.name, "queue")
        for device in pool.devices:
            # a CPU may serve several pools; an accelerator is owned by exactly one process
            key = f"{device.name}@{device.host}" if device.kind in ("edgetpu", "cuda") else pool.node(device)
            owner = owners.setdefault(key, pool.name)
            if owner != pool.name or sum(d == device for d in pool.devices) > 1:
                raise file.error(
                    f"device {device.name} is named twice (pool {owner}): one device, one process.",
                    "pools",
                    pool.name,
                    "devices",
                )


def _check_simulated(file: _File, pools: dict[str, Pool], allocated: Sequence[Device]) -> None:
    """A simulated device beside real ones would answer users. A strategy or an operator may let any pool have those
    that are given out."""
    for pool in pools.values():
        if pool.engine == "simulated":
            continue
        mend = (
            f"; it would answer users of pool {pool.name} in their place. Name only real or only simulated devices, or "
            "give the pool `engine: simulated`."
        )
        if _mixed(pool.devices):
            raise file.error(
                f"pool {pool.name}: a simulated device stands beside real ones{mend}", "pools", pool.name, "devices"
            )
        if pool.name != MAINTENANCE_POOL and _mixed([*pool.devices, *allocated]):
            where = "among those that are given out" if _mixed(allocated) else f"with those of pool {pool.name}"
            raise file.error(
                f"allocation: a simulated device stands beside real ones {where}{mend}", "allocation", "devices"
            )


def _mixed(devices: Iterable[Device]) -> bool:
    return len({device.kind == "simulated" for device in devices}) > 1
