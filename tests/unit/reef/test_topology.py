"""queues.yaml is read in one place, and a mistake in it is told with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reef.contracts.jobs import JOBS
from reef.topology import TopologyError, load_topology

ROOT = Path(__file__).parents[3]


CHAT = "version: 1\npools:\n  chat:\n    queue: chat\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "queues.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_has_a_pool_for_every_kind_of_job() -> None:
    """Each contract names a pool of queues.yaml, and the pools that later work fills are there."""
    topology = load_topology(ROOT / "queues.yaml")
    assert {job.POOL for job in JOBS} <= set(topology.pools)
    assert list(topology.pools) == ["chat", "embed", "index", "media", "tools", "maintenance"]
    assert topology.pool("chat").devices, "a fresh clone can chat"


def test_the_commented_examples_are_valid(tmp_path: Path) -> None:
    """What the file offers to copy is understood by the program."""
    text = (ROOT / "queues.yaml").read_text(encoding="utf-8")
    tail = text[text.index("# A host with eight Edge TPUs") :]
    examples = [line.removeprefix("#").rstrip() for line in tail.splitlines() if line.startswith("#   ")]
    for start, count in ((0, 3), (3, 2)):
        block = "\n".join(examples[start : start + count])
        assert load_topology(write(tmp_path, f"version: 1\npools:\n{block}\n")).pools


def test_the_examples_of_the_operations_guide_are_valid(tmp_path: Path) -> None:
    """Every allocation that the guide offers to copy is understood, beside the pools of the shipped file."""
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(allocation:\n.*?)```", guide, flags=re.DOTALL)
    shipped = (ROOT / "queues.yaml").read_text(encoding="utf-8")
    emptied = re.sub(r"^    devices: \[.*\]", "    devices: []", shipped, flags=re.MULTILINE)
    files = [f"{emptied if 'simulated' in example else shipped}\n{example}" for example in examples]
    sizes = [len(load_topology(write(tmp_path, text)).allocated) for text in files]
    assert sizes == [8, 48, 96, 96]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("version: 1\npools:\n  chat:\n    queue: chat\n    streams: many\n", 5, "Expected `int`"),
        ("version: 1\npools:\n  chat:\n    queue: chat\n    colour: red\n", 5, "colour"),
        ("version: 1\npools:\n  chat:\n    queue: chat\n    devices: [gpu:0]\n", 5, "'gpu:0' is unknown"),
        ("version: 1\npools:\n  chat:\n    queue: chat\n    limits:\n      waiting_max: 0\n", 6, ">= 1"),
        ("version: 1\npools:\n  a: {queue: q}\n  b: {queue: q}\n", 4, "already belongs to pool a"),
        ("version: 1\npools:\n  a: {queue: a, devices: [usb:0]}\n  b: {queue: b, devices: [usb:0]}\n", 4, "one device"),
        ("version: 1\npools:\n  Chat: {queue: chat}\n", 3, "lower-case"),
        ("version: 2\npools: {}\n", 1, "version is 2"),
        ("version: 1\npools:\n  chat: [\n", 4, "not YAML"),
        ("- a\n- b\n", 1, "expected a mapping"),
        ("version: 1\npools:\n  embed: {queue: embed}\n", 2, "no pool `chat`"),
        (f"{CHAT}    devices: [pci:3-1]\n", 5, "'pci:3-1' is empty"),
        (f"{CHAT}allocation:\n  strategy: dynamic\n  devices: []\n", 7, "length >= 1"),
        (f"{CHAT}allocation:\n  strategy: round_robin\n  devices: [pci:0]\n", 6, "round_robin"),
        (f"{CHAT}allocation:\n  strategy: dynamic\n  devices: [pci:0-3]\n  dynamic: {{hot: 5}}\n", 8, "there are 4"),
        (f"{CHAT}allocation:\n  strategy: dedicated\n  devices: [pci:0, pci:0]\n", 7, "pci:0 is named twice"),
        (
            f"{CHAT}allocation:\n  strategy: dynamic\n  devices: [pci:0]\n  dynamic: {{bulk_pools: [x]}}\n",
            8,
            "no pool 'x'",
        ),
        (f"{CHAT}allocation:\n  strategy: pipeline\n  devices: [pci:0-3]\n", 5, "needs `pipeline:"),
        (
            f"{CHAT}allocation:\n  strategy: dedicated\n  devices: [pci:0-3]\n"
            "  dedicated: {devices_per_persona: 2, services: {chat: 1}, reserve: 2}\n",
            8,
            "needs 5 devices",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    """The message begins with file:line and says what is wrong there."""
    path = write(tmp_path, text)
    with pytest.raises(TopologyError) as error:
        load_topology(path)
    assert str(error.value).startswith(f"{path}:{line}:"), str(error.value)
    assert says in str(error.value)


def test_a_missing_file_says_which_variable_names_another(tmp_path: Path) -> None:
    """The reader learns how to point at the right file."""
    with pytest.raises(TopologyError, match="REEF_QUEUES_FILE"):
        load_topology(tmp_path / "nowhere.yaml")


def test_devices_are_read_as_written(tmp_path: Path) -> None:
    """Cores, indexes and hosts come out of the strings; node names are unique and safe."""
    devices = '[cpu, "cpu:2-4", "usb:0", "pci:1@alpha", remote, simulated]'
    pool = load_topology(write(tmp_path, f"{CHAT}    engine: simulated\n    devices: {devices}\n")).pool("chat")
    assert [device.kind for device in pool.devices] == ["cpu", "cpu", "edgetpu", "edgetpu", "remote", "simulated"]
    assert pool.device("cpu:2-4").cores == (2, 3, 4)
    assert (pool.device("pci:1@alpha").index, pool.device("pci:1@alpha").host) == (1, "alpha")
    nodes = [pool.node(device) for device in pool.devices]
    assert nodes == ["chat-cpu", "chat-cpu-2-4", "chat-usb-0", "chat-pci-1.alpha", "chat-remote", "chat-simulated"]
    with pytest.raises(KeyError, match="pool chat has no device"):
        pool.device("usb:7")


def test_the_same_device_on_two_hosts_is_told_apart(tmp_path: Path) -> None:
    """The address that a command line carries names one of them."""
    text = "version: 1\npools:\n  chat: {queue: chat, devices: [cpu@alpha, cpu@beta]}\n"
    pool = load_topology(write(tmp_path, text)).pool("chat")
    assert [pool.device(device.address) for device in pool.devices] == list(pool.devices)
    assert pool.device("cpu@beta").host == "beta"


def test_the_model_setting_overrides_the_chat_pool_only(tmp_path: Path) -> None:
    """`--model` changes who answers, not who embeds."""
    path = write(tmp_path, "version: 1\npools:\n  chat: {queue: c, model: a}\n  embed: {queue: e, model: b}\n")
    topology = load_topology(path, model="other.gguf")
    assert (topology.pool("chat").model, topology.pool("embed").model) == ("other.gguf", "b")


def test_ranges_and_devices_given_out(tmp_path: Path) -> None:
    """`simulated:0-95` is 96 devices; those of the allocation belong to no pool and have node names of their own."""
    given = "allocation:\n  strategy: dynamic\n  devices: [simulated:0-95, 'pci:2-3@beta']\n"
    text = f"{CHAT}    devices: [cpu]\n    engine: simulated\n{given}"
    topology = load_topology(write(tmp_path, text))
    assert len(topology.allocated) == 98
    assert [device.node for device in topology.allocated[95:]] == ["simulated-95", "pci-2.beta", "pci-3.beta"]
    assert [device.name for device in topology.pool("chat").devices] == ["cpu"]
    assert topology.allocation is not None
    assert topology.allocation.dynamic.hot == 1


GIVEN = "allocation:\n  strategy: dynamic\n  devices: "


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (f"{CHAT}    devices: [cpu, simulated]\n", 5, "pool chat: a simulated device stands beside real ones"),
        (f"{CHAT}{GIVEN}['pci:0-3', 'simulated:0']\n", 7, "among those that are given out"),
        (f"{CHAT}    devices: [cpu]\n{GIVEN}['simulated:0-3']\n", 8, "with those of pool chat"),
        (f"{CHAT}    devices: [simulated]\n{GIVEN}['pci:0-3']\n", 8, "with those of pool chat"),
        (
            f"{CHAT}    engine: simulated\n  embed: {{queue: embed, devices: [cpu]}}\n{GIVEN}['simulated:0-3']\n",
            9,
            "with those of pool embed",
        ),
    ],
)
def test_simulated_devices_stand_beside_no_real_ones(tmp_path: Path, text: str, line: int, says: str) -> None:
    """They would answer users, or put their vectors into the index: neither a pool nor a strategy may mix them."""
    path = write(tmp_path, text)
    with pytest.raises(TopologyError) as raised:
        load_topology(path)
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert says in str(raised.value)
    assert "engine: simulated" in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        f"{CHAT}    devices: ['simulated:0-1']\n  index: {{queue: index, devices: [cpu]}}\n",
        f"{CHAT}    devices: [cpu, simulated]\n    engine: simulated\n",
        f"{CHAT}    devices: [simulated]\n  maintenance: {{queue: m, devices: [cpu]}}\n{GIVEN}['simulated:1-3']\n",
    ],
)
def test_what_is_simulated_throughout_is_fine(tmp_path: Path, text: str) -> None:
    """A pool of simulated devices, an engine that simulates on every device, a strategy of simulated devices."""
    assert load_topology(write(tmp_path, text)).pool("chat").devices
