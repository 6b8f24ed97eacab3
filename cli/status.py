"""`coral-reef status`: the processes, devices and queues of the reef that runs in a data directory."""

from __future__ import annotations

import json
import time
from typing import Any

import click
import httpx
import msgspec
from rich.console import Console

from cli.data_directory import DataDirectory, FlowerLogin, RunFile
from cli.errors import Problem
from cli.options import data_dir_option, settings_with
from cli.reef_client import ReefClient
from cli.show import plain_console, size, span, table
from workers.child_process import group_memory_bytes
from workers.process_spec import ProcessState


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_dir_option
def status(as_json: bool, data_dir: object) -> None:
    """Show processes, devices and queues. Exit status 1 when nothing runs."""
    settings = settings_with(data_dir=data_dir)
    directory = DataDirectory(settings.data_dir)
    record = directory.read_run_file()
    if record is None or not record.alive:
        raise Problem(
            f"Coral Reef does not run in {settings.data_dir}.", "Start it: coral-reef up (or name its --data-dir)."
        )
    report = {
        "url": record.url,
        "pid": record.pid,
        "uptime_s": round(time.time() - record.started_at, 1),
        "processes": _processes(record),
        "flower": msgspec.to_builtins(directory.read_flower()),
        **_ask(record.url, directory.read_status_key()),
    }
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print(plain_console(), report, directory.read_flower())


def _processes(record: RunFile) -> list[dict[str, Any]]:
    memory = group_memory_bytes(process.pid for process in record.processes if process.pid)
    return [_process(process, memory.get(process.pid, 0)) for process in record.processes]


def _process(process: ProcessState, memory_bytes: int) -> dict[str, Any]:
    return {
        "name": process.name,
        "state": process.state,
        "pid": process.pid,
        "uptime_s": round(time.time() - process.started_at, 1) if process.pid else 0.0,
        "restarts": process.restarts,
        "last_exit": process.last_exit,
        "memory_bytes": memory_bytes,
    }


def _ask(url: str, key: str) -> dict[str, Any]:
    """What the web process says of the reef; where it does not answer, why."""
    try:
        return {"reef": ReefClient(url, key).status(), "error": None}
    except (httpx.HTTPError, ValueError) as error:
        return {"reef": None, "error": f"{url} does not answer: {error or type(error).__name__}"}


def _print(console: Console, report: dict[str, Any], flower: FlowerLogin | None) -> None:
    console.print(f"[bold]Coral Reef[/] {report['url']}  (process {report['pid']}, {span(report['uptime_s'])})\n")
    rows = table("process", "state", ">pid", ">up for", ">restarts", ">memory", "last exit")
    for process in report["processes"]:
        rows.add_row(
            process["name"],
            process["state"],
            str(process["pid"] or ""),
            span(process["uptime_s"]),
            str(process["restarts"]),
            size(process["memory_bytes"]),
            process["last_exit"],
        )
    console.print(rows)
    if report["reef"] is None:
        console.print(f"\n[red]{report['error']}[/]")
    else:
        _print_reef(console, report["reef"])
    if flower is not None:
        console.print(f"\nFlower   {flower.url}  user {flower.user}  password {flower.password}", markup=False)


def _print_reef(console: Console, reef: dict[str, Any]) -> None:
    devices = table("device", "pool", "engine", "model", "state", ">running", "note")
    queues = table("queue", "pool", ">running", ">waiting", ">limit")
    for pool in reef["pools"]:
        queues.add_row(
            pool["queue"], pool["name"], str(pool["running"]), str(pool["waiting"]), str(pool["waiting_max"])
        )
        for device in pool["devices"]:
            label = f"{device['device']} (simulated)" if device.get("simulated") else device["device"]
            load = f"{device['running']}/{device['streams']}"
            devices.add_row(
                label, pool["name"], device["engine"], device["model"], device["state"], load, device["note"]
            )
    console.print()
    console.print(devices)
    console.print()
    console.print(queues)
    runs = reef["runs"]
    console.print(f"\nRuns     {runs['running']} running, {runs['queued']} queued, {runs['dead']} dead")
    console.print(f"Records  {reef['database']}    Broker  {reef['broker']}    Vectors  {reef['vectors']}")
    grpc = reef["grpc"] or "off"
    console.print(f"Sockets  {reef['sockets_open']} open    Gateway  {reef['gateway']}    gRPC  {grpc}")
