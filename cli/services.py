"""The commands that run one part of the reef in the foreground: for containers, service managers and other hosts.

Each replaces itself with the part's program, so that signals reach it directly; a pool with several devices is the
exception, its processes are supervised here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import click

from cli.errors import Problem
from cli.launch import CODE, bring_up_to_date, check_broker, is_loopback, local_devices, read_topology
from cli.options import data_dir_option, settings_with
from reef.settings import Settings, inherited_environment
from reef.topology import Device, Pool, Topology
from workers.supervisor import ProcessSpec, Supervisor

GRACE_EXTRA_S = 5.0


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
@click.option("--pool", "pool_name", required=True, help="A pool of queues.yaml.")
@click.option("--device", "device_name", help="One device of the pool; without it all of this machine's.")
@data_dir_option
def worker(pool_name: str, device_name: str | None, data_dir: object) -> None:
    """Run the worker of one device, or of all devices of a pool on this machine. Needs REEF_REDIS_URL."""
    from cli.models import ensure_models
    from cli.show import Show
    from workers.engines.select import environment

    settings = _connected(settings_with(data_dir=data_dir))
    topology = read_topology(settings)
    pool = _pool(topology, pool_name)
    if device_name is not None:
        try:
            devices = [pool.device(device_name)]
        except KeyError as error:
            raise click.UsageError(str(error.args[0])) from None
    else:
        devices = [device for owner, device in local_devices(topology) if owner is pool]
    if not devices:
        raise Problem(
            f"Pool {pool.name} has no device on this machine.",
            f"Give it one in {settings.queues_file} (devices: [cpu]), or name one with --device.",
        )
    with Show() as show:
        ensure_models(settings, [pool], show)
    if len(devices) == 1:
        arguments = ["--pool", pool.name, "--device", devices[0].address]
        wanted = environment(pool, devices[0])
        _become(settings.changed(node=pool.node(devices[0])), "workers.main", *arguments, environment=wanted)
    _supervise(settings, pool, devices)


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


def _supervise(settings: Settings, pool: Pool, devices: list[Device]) -> None:
    """Run the workers of several devices until SIGTERM or Ctrl-C."""
    from workers.engines.select import environment
    from workers.recovery import recover_node

    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    logs = settings.data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    supervisor = Supervisor(logs)
    try:
        for device in devices:
            node = pool.node(device)
            argv = [sys.executable, "-m", "workers.main", "--pool", pool.name, "--device", device.address]
            own = settings.changed(node=node).environment() | environment(pool, device)
            supervisor.start(
                ProcessSpec(
                    node,
                    argv,
                    inherited_environment() | own,
                    CODE,
                    on_exit=lambda report: recover_node(settings, report.name),
                    stop_grace_s=pool.limits.drain_s + GRACE_EXTRA_S,
                )
            )
            click.echo(f"{node}: log in {logs / node}.log")
        stop.wait()
    finally:
        supervisor.stop_all()
        supervisor.close()
