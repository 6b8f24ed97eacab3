"""The commands that run one part of the reef in the foreground: for containers, service managers and other hosts.

Each replaces itself with the part's program, so that signals reach it directly; workers are the exception, their
processes are supervised here (cli/hosting.py).
"""

from __future__ import annotations

import os
import sys

import click

from cli.errors import Problem
from cli.launch import bring_up_to_date, check_broker, is_loopback, read_topology
from cli.machine import CODE, Seat, local_seats, this_machine
from cli.options import data_dir_option, settings_with
from reef.settings import Settings, inherited_environment
from reef.topology import Pool, Topology


@click.command()
@click.option("--host", help="Address to listen on (REEF_HOST; default: 127.0.0.1).")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on (REEF_PORT; default: 8080).")
@data_dir_option
def web(host: str | None, port: int | None, data_dir: object) -> None:
    """Run the web process alone. Needs REEF_REDIS_URL; bound beyond loopback it asks for API keys."""
    settings = _connected(settings_with(host=host, port=port, data_dir=data_dir))
    if not is_loopback(settings.host):
        settings = settings.changed(require_api_key=True)
    _become(settings, "app.serve")


@click.command()
@click.option("--pool", "pool_name", help="A pool of queues.yaml; without it every pool with a device on this machine.")
@click.option(
    "--device",
    "device_name",
    help="One device of the pool (without --pool: of the allocation). Default: all here.",
)
@data_dir_option
def worker(pool_name: str | None, device_name: str | None, data_dir: object) -> None:
    """Run the workers of a machine's devices and start again what dies. Needs REEF_REDIS_URL.

    On a machine of its own it needs REEF_DATABASE_URL as well, and REEF_CHROMA_URL for embed and index.
    """
    from cli.hosting import check_alone, check_records, host_workers
    from cli.models import ensure_models
    from cli.show import Show

    settings = settings_with(data_dir=data_dir)
    topology = read_topology(settings)
    named = None if device_name is None else _named(topology, pool_name, device_name)
    settings = _connected(settings)
    check_records(settings)
    seats = [named] if named else _seats(settings, topology, pool_name)
    with Show() as show:
        check_alone(settings, seats, show)
        ensure_models(settings, list({pool.name: pool for pool, _ in seats if pool}.values()), show)
    host_workers(settings, topology, seats)


@click.command()
@data_dir_option
def sweeper(data_dir: object) -> None:
    """Run the sweeper alone: it sends lost jobs again. One per reef is enough. Needs REEF_REDIS_URL."""
    _become(_connected(settings_with(data_dir=data_dir)), "workers.sweeper")


@click.command()
@click.option("--address", default="127.0.0.1", show_default=True)
@click.option("--port", default=5555, show_default=True, type=click.IntRange(1, 65535))
@data_dir_option
def flower(address: str, port: int, data_dir: object) -> None:
    """Run Flower alone. FLOWER_BASIC_AUTH=user:password sets the login. Needs REEF_REDIS_URL."""
    settings = _connected(settings_with(data_dir=data_dir))
    extra = {"FLOWER_ADDRESS": address, "FLOWER_PORT": str(port)}
    if not is_loopback(address) and not inherited_environment().get("FLOWER_BASIC_AUTH"):
        raise Problem(
            f"Flower on {address} would be open to everybody who can reach it.",
            "Set FLOWER_BASIC_AUTH=user:password. Its /metrics and /healthcheck stay open even then.",
        )
    _become(settings, "celery", "-A", "tasks.celery_app", "flower", environment=extra)


@click.command()
@data_dir_option
def migrate(data_dir: object) -> None:
    """Bring the database to this version. `up` does it by itself."""
    settings = settings_with(data_dir=data_dir)
    if not settings.database_url:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    bring_up_to_date(settings)
    click.echo("The database is up to date.")


def _connected(settings: Settings) -> Settings:
    if not settings.redis_url:
        raise Problem(
            "REEF_REDIS_URL is not set: a part that runs alone needs the broker of the others.",
            "Set it (redis://:PASSWORD@HOST:6379/0), or run everything with coral-reef up.",
        )
    check_broker(settings)
    return settings


def _seats(settings: Settings, topology: Topology, pool_name: str | None) -> list[Seat]:
    """The devices that are asked for. A machine that queues.yaml names serves the devices under its name only."""
    wanted = None if pool_name is None else _pool(topology, pool_name)
    seats = [seat for seat in local_seats(topology, settings.machine) if wanted in (None, seat[0])]
    here = [seat for seat in seats if seat[1].host] or seats
    if not here:
        name = settings.machine or this_machine()
        raise Problem(
            f"{'No pool' if wanted is None else f'Pool {wanted.name}'} has no device on this machine.",
            f"Give it one in {settings.queues_file} (devices: [cpu@{name}]), or name one with --device.",
        )
    return here


def _named(topology: Topology, pool_name: str | None, device_name: str) -> Seat:
    """One device: of a pool, or without --pool one that a strategy gives out."""
    if pool_name is not None:
        pool = _pool(topology, pool_name)
        try:
            return pool, pool.device(device_name)
        except KeyError as error:
            raise click.UsageError(str(error.args[0])) from None
    for device in topology.allocated:
        if device_name in (device.address, device.name):
            return None, device
    raise click.UsageError(
        "--device needs --pool, unless it is a device of the allocation: it may serve several pools."
    )


def _pool(topology: Topology, name: str) -> Pool:
    try:
        return topology.pool(name)
    except KeyError as error:
        raise click.UsageError(str(error.args[0])) from None


def _become(settings: Settings, module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Replace this process; never returns."""
    sys.stdout.flush()
    os.chdir(CODE)
    merged = inherited_environment() | settings.environment() | (environment or {})
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], merged)  # noqa: S606
