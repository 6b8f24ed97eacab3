"""What `coral-reef worker` does on a machine of devices: make sure that it may, then keep their workers running.

The broker, the database and the web process are elsewhere; nothing of them is started here. A worker that dies is
started again, and its jobs are free at once, as under `coral-reef up`.
"""

from __future__ import annotations

import functools
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import redis

from cli.errors import Problem
from cli.launch import secrets_of
from cli.machine import Post, worker_spec
from cli.outside import check_database
from cli.show import Show
from reef import keys
from reef.contracts.nodes import NodeReport
from reef.nodes import reports_of
from reef.settings import Settings, inherited_environment
from workers.process_spec import ExitReport, ProcessState
from workers.supervisor import Supervisor

LOOK_AGAIN_S = 0.1
LOOK_S = 2.5
"""A living worker reports more than once in this time."""
CLOCK_SKEW_MAX_S = 1.0
"""Leases compare the clocks of machines (reef/ledger/ledger.py)."""


def check_records(settings: Settings) -> None:
    """Raises Problem where this machine would look for jobs in a database of its own."""
    if not settings.database_url and not (settings.data_dir / "reef.db").exists():
        raise Problem(
            f"There is no database in {settings.data_dir}: this worker would wait for jobs that nobody can give it.",
            "Set REEF_DATABASE_URL to the PostgreSQL of the machine that runs the web process.",
        )
    check_database(settings)


def check_alone(settings: Settings, posts: Sequence[Post], show: Show) -> None:
    """Raises Problem where a living worker serves one of these devices already: a device has one owner.

    What a dead one left (a machine that lost its power says no goodbye) is freed. Warns of a clock that is off.
    """
    nodes = [post.node for post in posts]
    with redis.Redis.from_url(settings.redis_url, socket_timeout=3, socket_connect_timeout=3) as client:
        skew_s = _skew_s(client)
        if abs(skew_s) > CLOCK_SKEW_MAX_S:
            show.warn(
                f"This machine's clock is {skew_s:+.1f} s off the broker's. Leases compare clocks: run NTP on both."
            )
        if (owner := _living(client, nodes)) is not None:
            raise Problem(
                f"{owner.node} is served already, on {owner.host} (process {owner.pid}).",
                "Stop that worker, or name the devices of each machine in queues.yaml (cpu@alpha, cpu@beta).",
            )
    from workers.recovery import recover_node

    for node in nodes:
        recover_node(settings, node)


def host_workers(settings: Settings, posts: Sequence[Post]) -> None:
    """Run the workers until SIGTERM or Ctrl-C. Their output goes to their logs and to this one's."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logs = settings.data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    supervisor = Supervisor(logs, secrets=secrets_of(settings), on_change=_teller(), echo=sys.stdout.fileno())
    try:
        for post in posts:
            own = settings.changed(node=post.node).environment() | {"PYTHONUNBUFFERED": "1"}
            on_exit = functools.partial(_hand_back, settings)
            supervisor.start(worker_spec(post, inherited_environment() | own, on_exit))
        stop.wait()
    finally:
        supervisor.stop_all()
        supervisor.close()


def _hand_back(settings: Settings, report: ExitReport) -> None:
    from workers.recovery import recover_node

    recover_node(settings, report.name)


def _teller() -> Callable[[Sequence[ProcessState]], None]:
    """Says of each worker when it starts, dies and is started again."""
    told: dict[str, tuple[str, int]] = {}

    def tell(states: Sequence[ProcessState]) -> None:
        for state in states:
            now = (state.state, state.pid)
            if told.get(state.name) != now:
                told[state.name] = now
                why = f" ({state.last_exit})" if state.last_exit and state.state != "running" else ""
                click.echo(f"{state.name}: {state.state}{f', process {state.pid}' if state.pid else ''}{why}")

    return tell


def _skew_s(client: redis.Redis) -> float:
    began_s = time.time()
    answer: Any = client.time()
    seconds, microseconds = answer
    return (began_s + time.time()) / 2 - (float(seconds) + float(microseconds) / 1e6)


def _living(client: redis.Redis, nodes: list[str]) -> NodeReport | None:
    """A worker of these that reports again while it is watched. Only time tells a silence: nothing announces it."""
    before = reports_of(client, nodes)
    until = time.monotonic() + LOOK_S
    watched = any(time.time() - report.at < keys.NODE_TTL_S for report in before.values())
    while watched and time.monotonic() < until:
        for node, report in reports_of(client, nodes).items():
            if node in before and report.at > before[node].at:
                return report
        time.sleep(LOOK_AGAIN_S)
    return None
