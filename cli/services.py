"""The commands that run one part of the reef in the foreground: for containers, service managers and other hosts.

Each replaces itself with the part's program, so that signals reach it directly; workers are the exception, their
processes are supervised here (cli/hosting.py).
"""

from __future__ import annotations

import os
import sys

import click

from cli.errors import Problem
from cli.machine import CODE, Post, all_posts, is_loopback, local_posts, pools_of, read_topology, this_machine
from cli.options import data_dir_option, settings_with
from cli.outside import bring_up_to_date, check_broker
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
@data_dir_option
def gateway(data_dir: object) -> None:
    """Run the gateway alone, beside a web process with the same data directory, whose WebSockets it holds.

    Needs REEF_REDIS_URL. REEF_GRPC_PORT makes it serve the gRPC API.
    """
    settings = _connected(settings_with(data_dir=data_dir))
    if not is_loopback(settings.host):
        settings = settings.changed(require_api_key=True)
    _become(settings, "app.gateway")


@click.command()
@click.option("--pool", "pool_name", help="A pool of queues.yaml; without it every device of this machine.")
@click.option("--device", "device_name", help="One device of the pool; without --pool one that a strategy gives out.")
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
    if device_name is not None:
        _posts(settings, topology, pool_name, device_name)  # a wrong command line is told before anything is tried
    settings = _connected(settings)
    check_records(settings)
    posts = _posts(settings, topology, pool_name, device_name)
    with Show() as show:
        check_alone(settings, posts, show)
        ensure_models(settings, pools_of(posts), show)
    host_workers(settings, posts)


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


def _posts(settings: Settings, topology: Topology, pool_name: str | None, device_name: str | None) -> list[Post]:
    """The workers that are asked for. A machine that queues.yaml names serves the devices under its name only."""
    wanted = None if pool_name is None else _pool(topology, pool_name)
    if device_name is not None:
        return [_post(topology, wanted, device_name)]
    posts = [post for post in local_posts(topology, settings.machine) if wanted is None or _owns(wanted, post)]
    here = [post for post in posts if post.device.host] or posts
    if not here:
        name = settings.machine or this_machine()
        raise Problem(
            f"{'No pool' if wanted is None else f'Pool {wanted.name}'} has no device on this machine.",
            f"Give it one in {settings.queues_file} (devices: [cpu@{name}]), or name one with --device.",
        )
    return here


def _post(topology: Topology, pool: Pool | None, device_name: str) -> Post:
    """The worker of one device: of this pool, or of the allocation."""
    posts = [post for post in all_posts(topology) if (post.given_out if pool is None else _owns(pool, post))]
    for post in (*(p for p in posts if p.device.address == device_name), *posts):
        if device_name in (post.device.address, post.device.name):
            return post
    known = ", ".join(post.device.address for post in posts) or "none"
    where = "the allocation" if pool is None else f"pool {pool.name}"
    hint = " (--pool names the pool of another device)" if pool is None else ""
    raise click.UsageError(f"{where} has no device {device_name!r}; queues.yaml gives it: {known}{hint}")


def _owns(pool: Pool, post: Post) -> bool:
    return not post.given_out and post.pools[0] is pool


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
