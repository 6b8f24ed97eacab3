"""What `coral-reef up` runs, and nothing else: which processes, in which order, with which settings and on which ports.

`ReefProcesses` is also what the tests start the product with: same order, same probes, same stop. It prints nothing
and asks nothing; `cli/up.py` does the talking.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import httpx
import redis
import sqlalchemy as sa

from cli import gateway
from cli.data_directory import DataDirectory, FlowerLogin
from cli.errors import Problem
from cli.machine import CODE, all_posts, is_loopback, local_posts, needs_vectors, read_topology, worker_spec
from cli.options import without_password
from cli.outside import bring_up_to_date, check_address, check_broker
from cli.reef_client import ReefClient
from reef import access, keys
from reef.knowledge import heartbeat
from reef.records.database import Database
from reef.settings import Settings, inherited_environment
from reef.topology import Topology
from workers import broker, vector_server
from workers.process_spec import ExitReport, ProcessFailed, ProcessSpec, ProcessState
from workers.supervisor import Supervisor

BROKER_READY_S = 30.0
"""Loading a large append-only file takes time; PING answers when it is done."""
BROKER_STARTS_MAX = 3
VECTORS_READY_S = 15.0
"""The start goes on without the vector store after this time; it may still come."""
GATEWAY_READY_S = 15.0
"""The start goes on without the gateway after this time; it may still come."""
CRASHES_MIN = 2
"""Restarts after which a worker that never reported counts as unable to start."""
READY_POLL_S = 0.1
WEB_GRACE_S = 15.0
SMALL_GRACE_S = 5.0
SECRET_CHARACTERS_MIN = 8
"""Shorter passwords are not blotted out of logs: they would tear holes into ordinary words."""
STATUS_KEY_NAME = "coral-reef status on this machine"

Note = Callable[[str], None]
"""Called with a sentence for a person when a step of the start is done."""


class ReefProcesses:
    """The processes of one reef on this machine. Start it once; `stop` also undoes half a start."""

    def __init__(
        self,
        settings: Settings,
        *,
        flower: bool = True,
        prepare: Callable[[Topology], None] | None = None,
        note: Note | None = None,
        on_change: Callable[[Sequence[ProcessState]], None] | None = None,
    ) -> None:
        """`prepare` is called when the data directory is ours and before a process starts: time to fetch models.

        `note` is called with a sentence after each step, `on_change` (in another thread) when a process changes.
        """
        exposed = not is_loopback(settings.host)
        self.settings = settings.changed(require_api_key=settings.require_api_key or exposed)
        """Complete after `start`: URLs of the broker, of Chroma and of Flower are filled in."""
        self.flower: FlowerLogin | None = None
        self._with_flower = flower
        self._prepare = prepare or (lambda _: None)
        self._note = note or (lambda _: None)
        self._on_change = on_change or (lambda _: None)
        self._shares_broker = bool(settings.redis_url)
        self._directory = DataDirectory(settings.data_dir)
        self._supervisor: Supervisor | None = None
        self._started_at = time.time()
        self._status_key = ""

    # --- the start, step by step -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; returns when broker and database serve and the rest is starting.

        Raises Problem with what to do. Call `stop` afterwards in any case.
        """
        topology = read_topology(self.settings)
        ended = self._directory.acquire()
        if ended:
            self._note(f"Ended {len(ended)} processes that an earlier start had left behind")
        self._check_outside()
        self._prepare(topology)
        self._start_broker()
        self._make_status_key()
        self._prepare_flower()
        self._start_vectors(topology)
        self._start_rest(topology)

    def _check_outside(self) -> None:
        """What is not ours to make is looked at before anything is fetched: a download is no time to wait for it."""
        check_address(self.settings)
        gateway.check_port(self.settings)
        if self._shares_broker:
            check_broker(self.settings)
            self._note("Broker of REEF_REDIS_URL answers")
        bring_up_to_date(self.settings)
        self._note("Database is up to date")

    def _start_broker(self) -> None:
        if self._shares_broker:
            self._supervise([])
            return
        for attempt in range(1, BROKER_STARTS_MAX + 1):
            try:
                endpoint, argv = broker.prepare(self._directory.broker, self._promised_ports())
                supervisor = self._supervise([endpoint.password])
                probe = functools.partial(broker.answers, endpoint.url)
                supervisor.start(self._spec("broker", argv, probe, phase=2))
                supervisor.wait_ready("broker", BROKER_READY_S)
            except broker.BrokerError as error:
                raise Problem(str(error)) from None
            except ProcessFailed as error:
                supervisor.close()
                self._supervisor = None
                # another program may have taken the port between the look and the bind
                if attempt == BROKER_STARTS_MAX or broker.port_is_free(endpoint.port):
                    raise Problem(str(error), "Is the disk full? `coral-reef doctor` checks the machine.") from None
            else:
                self.settings = self.settings.changed(redis_url=endpoint.url)
                self._note(f"Broker runs on port {endpoint.port}")
                return

    def _start_vectors(self, topology: Topology) -> None:
        """A reef without its vector store still chats: nothing here ends the start."""
        if self.settings.chroma_url:
            silent = heartbeat.why_silent(self.settings.chroma_url, VECTORS_READY_S)
            shown = without_password(self.settings.chroma_url)
            self._note(f"Chroma of REEF_CHROMA_URL ({shown}) " + (f"is silent: {silent}" if silent else "answers"))
            return
        if not needs_vectors(topology, self.settings.machine):
            return
        if not vector_server.installed():
            self._note("Chroma is not installed for this machine: documents cannot be asked. Set REEF_CHROMA_URL.")
            return
        endpoint, argv = vector_server.prepare(self._directory.chroma, self._promised_ports())
        self.settings = self.settings.changed(chroma_url=endpoint.url)
        supervisor = self._running()
        spec = self._spec("chroma", argv, functools.partial(heartbeat.beats, endpoint.url), phase=2)
        supervisor.start(dataclasses.replace(spec, environment={**spec.environment, **vector_server.QUIET}))
        try:
            supervisor.wait_ready("chroma", VECTORS_READY_S)
            self._note(f"Chroma runs on port {endpoint.port}")
        except ProcessFailed as error:
            self._note(f"Chats go on without documents for now. {error}")

    def _promised_ports(self) -> list[int]:
        """Of the web process and the gateway, which are started last: free until then, and nobody else's."""
        return [self.settings.port, self.settings.grpc_port]

    def _supervise(self, more_secrets: Sequence[str]) -> Supervisor:
        known = [*more_secrets, *secrets_of(self.settings)]
        if self._with_flower:
            self.flower = FlowerLogin("", "reef", secrets.token_urlsafe(24))
            known.append(self.flower.password)
        self._supervisor = Supervisor(
            self._directory.logs,
            secrets=[secret for secret in known if len(secret) >= SECRET_CHARACTERS_MIN],
            on_change=self._changed,
        )
        return self._supervisor

    def _make_status_key(self) -> None:
        """A reef that asks for keys asks `status` too; its key is made once and kept where only this user reads."""
        if not self.settings.require_api_key:
            return
        database = Database(self.settings.sqlalchemy_url)
        try:
            self._status_key = self._directory.read_status_key()
            if access.verify_key(database, self._status_key) is None:
                self._status_key, _ = access.create_key(database, STATUS_KEY_NAME)
                self._directory.write_status_key(self._status_key)
        finally:
            database.dispose()

    def _prepare_flower(self) -> None:
        if self.flower is None:
            return
        port = broker.free_port(avoid=self._promised_ports())
        self.flower = FlowerLogin(f"http://{broker.LOOPBACK}:{port}", self.flower.user, self.flower.password)
        self._directory.write_flower(self.flower)
        self.settings = self.settings.changed(flower_url=self.flower.url)

    def _start_rest(self, topology: Topology) -> None:
        supervisor = self._running()
        # before the web process, which then can hand over its first client
        if gateway.is_wanted(self.settings):
            probe = functools.partial(gateway.answers, self.settings)
            supervisor.start(self._spec("gateway", _python("app.gateway"), probe, grace_s=WEB_GRACE_S))
        supervisor.start(self._spec("web", _python("app.serve"), self.client.lives, grace_s=WEB_GRACE_S))
        posts = local_posts(topology, self.settings.machine)
        self._free_what_was_held([post.node for post in posts])
        for post in posts:
            supervisor.start(worker_spec(post, self._environment(node=post.node), self._hand_back))
        supervisor.start(self._spec("sweeper", _python("workers.sweeper"), phase=1))
        if self.flower is not None:
            supervisor.start(self._flower_spec(self.flower))
        # while the processes start: the first death must not wait for half a second of imports
        importlib.import_module("workers.recovery")

    def _free_what_was_held(self, nodes: Collection[str]) -> None:
        """A reef that was killed, or lost its power, said no goodbye: its jobs need not wait until their leases end.

        Of a broker of our own only: a device of the same name may live on another machine that shares one.
        """
        if self._shares_broker:
            return
        with redis.Redis.from_url(self.settings.redis_url, socket_timeout=3, socket_connect_timeout=3) as client:
            left = [node for node in nodes if client.hexists(keys.NODES, node)]
        if left:
            from workers.recovery import recover_node

            for node in left:
                recover_node(self.settings, node)
            self._note("An earlier start ended without a word; what its workers held is free again")

    def _flower_spec(self, login: FlowerLogin) -> ProcessSpec:
        address = httpx.URL(login.url)
        # by environment: a command line can be read by every user of the machine
        environment = self._environment() | {
            "FLOWER_ADDRESS": address.host,
            "FLOWER_PORT": str(address.port),
            "FLOWER_BASIC_AUTH": f"{login.user}:{login.password}",
        }
        argv = _python("celery", "-A", "tasks.celery_app", "flower")
        return ProcessSpec("flower", argv, environment, CODE, stop_phase=1, stop_grace_s=SMALL_GRACE_S)

    def _spec(
        self,
        name: str,
        argv: Sequence[str],
        probe: Callable[[], bool] | None = None,
        *,
        phase: int = 0,
        grace_s: float = SMALL_GRACE_S,
    ) -> ProcessSpec:
        return ProcessSpec(name, argv, self._environment(), CODE, probe, stop_phase=phase, stop_grace_s=grace_s)

    def _environment(self, **fields: str) -> dict[str, str]:
        quiet = {"PYTHONUNBUFFERED": "1"}
        return inherited_environment() | quiet | self.settings.changed(**fields).environment()

    def _hand_back(self, report: ExitReport) -> None:
        """The jobs of a dead worker go back to their queue before its successor asks for jobs."""
        from workers.recovery import recover_node

        recover_node(self.settings, report.name)

    # --- while it runs -----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where a person opens the chat page."""
        return base_url(self.settings)

    @property
    def client(self) -> ReefClient:
        """For questions to the web process, with a key where this reef asks for keys."""
        return ReefClient(self.url, self._status_key)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until /readyz is green and no local device is loading. Raises Problem with the reason."""
        for _ in self.devices_while_starting(timeout_s):
            pass

    def devices_while_starting(self, timeout_s: float) -> Iterator[list[dict[str, Any]]]:
        """Yields the local devices' reports (as in /api/v1/system/status) until all serve or have failed.

        One broken device of several does not stop the others, and neither does a pool whose devices are on other
        machines or in quarantine: then it ends though /readyz is not green. When no device here can serve, Problem
        says why.
        """
        try:
            self._running().wait_ready("web", timeout_s)
            self._wait_gateway()
        except ProcessFailed as error:
            raise Problem(str(error)) from None
        topology = read_topology(self.settings)
        wanted = {post.node for post in local_posts(topology, self.settings.machine)}
        elsewhere = {post.node for post in all_posts(topology)} - wanted
        deadline = time.monotonic() + timeout_s
        while True:
            devices = [device for device in self.client.devices() if device["node"] in wanted]
            yield devices
            ready = {device["node"] for device in devices if device["state"] in ("ready", "busy")}
            waits = {device["node"] for device in devices if device["state"] == "quarantined"}
            failed = self.crashing(wanted) - ready - waits
            if wanted and failed == wanted:
                raise Problem("\n".join(self._running().explain(node) for node in sorted(failed)))
            settled = ready | failed | waits
            if wanted <= settled and (failed or waits or elsewhere or self.client.is_ready()):
                return
            if time.monotonic() > deadline:
                missing = ", ".join(sorted(wanted - ready)) or str(self.client.unready_checks())
                raise Problem(
                    f"Not ready within {timeout_s:.0f} s: {missing}.", f"The logs are in {self._directory.logs}."
                )
            time.sleep(READY_POLL_S)

    def _wait_gateway(self) -> None:
        """A reef whose gateway does not come serves WebSockets all the same: nothing here ends the start."""
        if not gateway.is_wanted(self.settings):
            return
        try:
            self._running().wait_ready("gateway", GATEWAY_READY_S)
        except ProcessFailed as error:
            self._note(f"The web process holds WebSockets itself for now. {error}")

    def crashing(self, names: Collection[str]) -> set[str]:
        """Those of the processes that die again and again; their reason is at the end of their logs."""
        return {state.name for state in self.states() if state.name in names and state.restarts >= CRASHES_MIN}

    def states(self) -> list[ProcessState]:
        """All processes, in the order they were started."""
        return self._running().states()

    def pids(self) -> dict[str, int]:
        """Numbers of the running processes by name: broker, chroma, gateway, web, sweeper, flower, workers by node."""
        return self._running().pids()

    def kill(self, name: str, signum: int = 9) -> int:
        """Send a signal to one process; returns the number it had. The supervisor restarts what dies."""
        return self._running().kill(name, signum)

    def stop(self, *, timeout_s: float | None = None) -> None:
        """Stop all: gateway, web and workers finish what runs, then sweeper and Flower, the broker and Chroma last.

        `timeout_s` shortens every process's grace. Safe to call twice and after a failed start.
        """
        supervisor = self._supervisor
        if supervisor is not None:
            supervisor.stop_all(timeout_s=timeout_s)
            supervisor.close()
            self._supervisor = None
        self._directory.release()

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise RuntimeError("the reef is not started")
        return self._supervisor

    def _changed(self, states: Sequence[ProcessState]) -> None:
        self._directory.write_run_file(self.url, self._started_at, states)
        self._on_change(states)


def secrets_of(settings: Settings) -> list[str]:
    """What must not stand in a log."""
    urls = (settings.redis_url, settings.database_url, settings.chroma_url)
    known = [settings.remote_api_key, settings.rerank_api_key, *map(_password_of, urls)]
    return [secret for secret in known if len(secret) >= SECRET_CHARACTERS_MIN]


def base_url(settings: Settings) -> str:
    """The address under which this machine reaches the web process."""
    return f"http://{settings.reached_at}:{settings.port}"


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _password_of(url: str) -> str:
    with contextlib.suppress(sa.exc.ArgumentError, ValueError):
        return sa.make_url(url).password or ""
    return ""
