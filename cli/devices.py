"""`coral-reef devices`: what this machine has, how it feels, and how it stands to queues.yaml.

Opens no device for work. What files do not tell is asked of nvidia-smi, of the configured server, and of libedgetpu in
a process of its own.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import click
import msgspec
import sqlalchemy as sa

from cli.errors import Problem
from cli.machine import local_devices, local_posts, read_topology
from cli.options import data_dir_option, settings_with
from cli.show import plain_console, table
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import Device, Topology
from workers.devices.base import Found, is_worker, process_name
from workers.devices.first_open import ask
from workers.devices.memory import DeviceMemory, Remembered
from workers.devices.registry import config_of, discover, kind_of
from workers.devices.wire import Question

Verdict = Literal["good", "warning", "bad"]
OWN_KINDS = ("edgetpu", "cuda", "remote")
"""Devices that can be missing."""
ASKED_KINDS = ("cuda", "remote")
"""Those that files do not tell enough about: a program or the server itself is asked."""
LIBRARY_TIMEOUT_S = 10.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--forget", metavar="NAME", help="Let NAME (usb:0) stand for another device, and forgive its faults.")
@data_dir_option
def devices(as_json: bool, forget: str | None, data_dir: object) -> None:
    """List the devices of this machine, and which of queues.yaml are missing."""
    settings = settings_with(data_dir=data_dir)
    if forget is not None:
        _forget(settings, forget)
        return
    known = remembered(settings)
    found = [_named(_asked(settings, one), known) for one in discover(settings.device_root, settings.remote_url)]
    problems = list(problems_here(settings, read_topology(settings), found, known))
    if as_json:
        shown = {
            "host": socket.gethostname(),
            "found": [msgspec.to_builtins(one) for one in found],
            "remembered": [msgspec.to_builtins(row) for row in known],
            "problems": [{"device": device.address, "problem": text} for device, text in problems],
        }
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    console = plain_console()
    console.print(_table(found, known))
    for device, text in problems:
        console.print(f"! {device.address} of queues.yaml: {text}", markup=False)


def remembered(settings: Settings) -> list[Remembered]:
    """What is known of this host's devices; nothing before the first start."""
    if not settings.database_url and not (settings.data_dir / "reef.db").exists():
        return []
    database = Database(settings.sqlalchemy_url)
    try:
        return DeviceMemory(database, socket.gethostname()).all()
    except sa.exc.SQLAlchemyError:
        return []  # `doctor` has a check for the database, which says why
    finally:
        database.dispose()


def check_devices(settings: Settings) -> tuple[Verdict, str, str]:
    """For `doctor`: a verdict on the devices of queues.yaml that belong to this machine, and what was found."""
    topology, known = read_topology(settings), remembered(settings)
    found = [_asked(settings, one) for one in discover(settings.device_root, settings.remote_url)]
    problems = list(problems_here(settings, topology, found, known))
    names = ", ".join(f"{one.name} {one.title}" for one in found if one.kind != "cpu")
    text = f"found besides the processor: {names or 'none'}"
    if not problems:
        return "good", text, ""
    replaced = {device for pool, device in local_devices(topology) if pool.cpu_fallback}
    verdict: Verdict = "warning" if all(device in replaced for device, _ in problems) else "bad"
    told = "; ".join(f"{device.address}: {problem}" for device, problem in problems)
    return verdict, f"{text}; {told}", "coral-reef devices shows all; docs/operations.md has a section on devices."


def problems_here(
    settings: Settings, topology: Topology, found: Sequence[Found], known: Sequence[Remembered]
) -> Iterator[tuple[Device, str]]:
    """What is wrong with the devices of queues.yaml on this machine."""
    wanted = _wanted(topology)
    if any(device.kind == "edgetpu" for device in wanted):
        trial = ask(Question(library=settings.edgetpu_library), timeout_s=LIBRARY_TIMEOUT_S)
        if trial.problem:
            first = next(device for device in wanted if device.kind == "edgetpu")
            yield first, trial.problem
    rows = {row.name: row for row in known}
    for device in wanted:
        row = rows.get(device.name)
        one = _meant(found, device, row.identity if row else "")
        if one is None:
            yield device, _missing(found, device, row.identity if row else "")
        elif problem := one.problem or _stranger(one):
            yield device, problem
        if row is not None and row.quarantined_until > time.time():
            until = time.strftime("%H:%M:%S", time.localtime(row.quarantined_until))
            yield device, f"out of use until {until} after {row.failures} faults: {row.last_fault}"


def _wanted(topology: Topology) -> list[Device]:
    """Devices of this machine that can be missing, each once."""
    every = [post.device for post in local_posts(topology)]
    return list(dict.fromkeys(device for device in every if device.kind in OWN_KINDS))


def _meant(found: Sequence[Found], device: Device, identity: str) -> Found | None:
    """The device that a name stands for: the one that is remembered, or else the one of that number."""
    if identity:
        return next((one for one in found if one.kind == device.kind and one.identity == identity), None)
    name = "remote" if device.kind == "remote" else device.name
    return next((one for one in found if one.kind == device.kind and one.name == name), None)


def _missing(found: Sequence[Found], device: Device, identity: str) -> str:
    if device.kind == "remote":
        return "REEF_REMOTE_URL is not set"
    bus = device.name.partition(":")[0]
    there = ", ".join(f"{one.name} ({one.identity})" for one in found if one.name.startswith(f"{bus}:")) or "none"
    what = f"the device {identity} is missing" if identity else "is missing"
    return f"{what}; found on {bus}: {there}"


def _stranger(one: Found) -> str:
    """Who else holds a device, or why a server is no use."""
    if one.kind == "remote" and one.health.note.startswith("does not answer"):
        return one.health.note
    owner = one.health.owner_pid
    return f"belongs to {process_name(owner)}" if owner is not None and not is_worker(owner) else ""


def _asked(settings: Settings, one: Found) -> Found:
    """With what only a program or the server itself can tell."""
    if one.kind not in ASKED_KINDS:
        return one
    index = one.name.partition(":")[2]
    device = Device(one.name, one.kind, index=int(index or 0))  # type: ignore[arg-type]
    return msgspec.structs.replace(one, health=kind_of(config_of(settings, device)).health())


def _named(one: Found, known: Sequence[Remembered]) -> Found:
    """Under the name that stands for it."""
    bus = one.name.partition(":")[0]
    names = [row.name for row in known if one.identity and row.identity == one.identity and row.name.startswith(bus)]
    if names:
        return msgspec.structs.replace(one, name=names[0])
    # its number may already stand for another one
    taken = any(row.name == one.name and row.identity and row.identity != one.identity for row in known)
    return msgspec.structs.replace(one, name="") if taken else one


def _forget(settings: Settings, name: str) -> None:
    known = [row.name for row in remembered(settings)]
    if name not in known:
        raise Problem(f"Nothing is remembered of {name} on this host.", f"Known: {', '.join(known) or 'no device'}.")
    database = Database(settings.sqlalchemy_url)
    try:
        DeviceMemory(database, socket.gethostname()).forget([name])
    finally:
        database.dispose()
    click.echo(f"{name} will stand for the device that is found under it at the next start of its worker.")


def _table(found: Sequence[Found], known: Sequence[Remembered]) -> Any:
    rows = table("device", "what", "identity", "link", ">°C", ">owner", "state")
    faults = {row.name: row.last_fault for row in known if row.last_fault}
    for one in found:
        health = one.health
        last = f"last fault: {faults[one.name]}" if one.name in faults else ""
        state = ". ".join(part for part in (one.problem, health.note, last) if part)
        rows.add_row(
            one.name or "(new)",
            one.title,
            one.identity,
            health.link,
            "" if health.temperature_c is None else f"{health.temperature_c:.1f}",
            "" if health.owner_pid is None else str(health.owner_pid),
            state,
        )
    return rows
