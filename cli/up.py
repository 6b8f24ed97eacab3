"""`coral-reef up`: start everything, show how far it is, tell what dies, stop cleanly. The work is in cli/launch.py."""

from __future__ import annotations

import logging
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType
from typing import Any

import click

from cli.errors import Problem
from cli.launch import ReefProcesses
from cli.machine import is_loopback, local_pools
from cli.models import ensure_models
from cli.options import data_dir_option, settings_with
from cli.show import Show
from reef import access
from reef.records.database import Database
from reef.settings import Settings, unknown_variables
from reef.topology import Topology
from workers.process_spec import ProcessState

READY_TIMEOUT_S = 600.0
"""A large model on a small machine takes minutes to load; the progress is shown all the time."""
FIRST_KEY_NAME = "made by coral-reef up"
CHANGES_MAX = 1000
LOG_BYTES_MAX = 5_000_000


@click.command()
@click.option("--host", help="Address to listen on (REEF_HOST; default: 127.0.0.1). Others ask for an API key.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the page (REEF_PORT; default: 8080).")
@click.option("--model", help="Model of the chat pool: a name from `coral-reef models list`, or a .gguf file.")
@click.option("--flower/--no-flower", default=True, show_default=True, help="Run Flower, the queue monitor.")
@data_dir_option
def up(host: str | None, port: int | None, model: str | None, flower: bool, data_dir: Path | None) -> None:
    """Start everything and keep it running. Ctrl-C stops it cleanly."""
    settings = settings_with(host=host, port=port, data_dir=data_dir, model=_model(model))
    with Show() as show, _StopSignals() as stop, ExitStack() as ours:
        for sentence in unknown_variables():
            show.warn(sentence)

        def prepare(topology: Topology) -> None:
            ours.enter_context(_own_log(settings))
            _fetch_models(settings, topology, show)

        changes = _Changes(show)
        stop.on_signal = changes.wake
        reef = ReefProcesses(
            settings,
            flower=flower,
            prepare=prepare,
            note=show.good,
            on_change=changes.put,
        )
        try:
            reef.start()
            _show_loading(reef, show, stop)
            if not stop.asked.is_set():
                _welcome(reef, show)
                changes.show_until(stop.asked)
        except _Interrupted:
            pass
        finally:
            _stop(reef, show, stop)


class _Interrupted(Exception):
    """A person pressed Ctrl-C while the reef was starting."""


class _StopSignals:
    """Ctrl-C, SIGTERM and a closed terminal ask to stop; the second time waits for nothing."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.again = threading.Event()
        self.waiting = True
        self.on_signal: Callable[[], None] = lambda: None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopSignals:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is signal.SIG_IGN:  # nohup, or a shell's background job: keep it so
                continue
            self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, _signum: int, _frame: FrameType | None) -> None:
        if self.asked.is_set():
            self.again.set()
        self.asked.set()
        self.on_signal()
        if self.waiting:
            self.waiting = False
            raise _Interrupted

    def served(self) -> None:
        """From now on a signal sets `asked` and interrupts nothing."""
        self.waiting = False


class _Changes:
    """Deaths and restarts, told by the supervisor's thread and printed by the main one."""

    def __init__(self, show: Show) -> None:
        self._show = show
        # a SimpleQueue may be filled from a signal handler, whatever its thread was doing
        self._queue: queue.SimpleQueue[Sequence[ProcessState]] = queue.SimpleQueue()
        self._restarts: dict[str, int] = {}

    def put(self, states: Sequence[ProcessState]) -> None:
        """Called in the supervisor's thread; never blocks it."""
        if self._queue.qsize() < CHANGES_MAX:
            self._queue.put(states)

    def wake(self) -> None:
        """End a wait, so that the event is looked at."""
        self._queue.put(())

    def show_until(self, stop: threading.Event) -> None:
        """Print changes until the event is set."""
        while not stop.is_set():
            for state in self._queue.get():
                if state.restarts > self._restarts.get(state.name, 0) and state.pid:
                    self._restarts[state.name] = state.restarts
                    self._show.warn(f"{state.name}: {state.last_exit}; runs again as process {state.pid}")


def _model(text: str | None) -> str | None:
    """A path becomes absolute, because the workers run elsewhere."""
    if text is None or not text.endswith(".gguf"):
        return text
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise Problem(f"There is no model file {path}.", "`coral-reef models list` shows models that can be fetched.")
    return str(path)


@contextmanager
def _own_log(settings: Settings) -> Iterator[None]:
    """What this process logs (recovery after a death, above all) goes to logs/up.log and not between the lines."""
    handler = RotatingFileHandler(settings.data_dir / "logs" / "up.log", maxBytes=LOG_BYTES_MAX, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _fetch_models(settings: Settings, topology: Topology, show: Show) -> None:
    ensure_models(settings, local_pools(topology, settings.machine), show)


def _show_loading(reef: ReefProcesses, show: Show, stop: _StopSignals) -> None:
    """Follow the devices until each is ready or has failed."""
    shown: set[str] = set()
    show.progress("web", None, "starting")
    for devices in reef.devices_while_starting(READY_TIMEOUT_S):
        if "web" not in shown:
            shown.add("web")
            show.done("web", "Web process answers")
        for device in devices:
            node = str(device["node"])
            if node in shown:
                continue
            if device["state"] in ("ready", "busy"):
                shown.add(node)
                show.done(node, f"{node}: {device['model']} on {device['device']} ({device['engine']})")
            elif device["state"] == "quarantined":
                shown.add(node)
                show.warn(f"{node} is out of use for now: {device['note']}")
            else:
                show.progress(node, float(str(device["progress"])), str(device["note"]))
        for node in reef.crashing([str(device["node"]) for device in devices]) - shown:
            shown.add(node)
            show.warn(f"{node} cannot serve; why is in {reef.settings.data_dir / 'logs' / node}.log")
    for name, state in reef.client.unready_checks().items():
        show.warn(f"Not ready: {name} is {state}")
    show.calm()
    stop.served()


def _welcome(reef: ReefProcesses, show: Show) -> None:
    show.line()
    show.line(f"  Chat page  {reef.url}")
    show.line(f"  API        {reef.url}/api/v1/openapi.json   (OpenAI clients: {reef.url}/v1)")
    if reef.settings.grpc_address:
        show.line(f"  gRPC       {reef.settings.grpc_address}")
    if reef.flower is not None:
        show.line(f"  Flower     {reef.flower.url}   (login: coral-reef status)")
    show.line(f"  Logs       {reef.settings.data_dir / 'logs'}")
    show.line()
    if not is_loopback(reef.settings.host):
        _show_first_key(reef.settings, show)
    show.line("  Ctrl-C stops everything.")


def _show_first_key(settings: Settings, show: Show) -> None:
    """Beyond loopback every request needs a key; the first one is made and shown here, once."""
    database = Database(settings.sqlalchemy_url)
    try:
        names = {key.name for key in access.list_keys(database) if key.revoked_at is None}
        if FIRST_KEY_NAME in names:
            show.line("  Requests need an API key. Make another one with: coral-reef keys create NAME")
        else:
            secret, _ = access.create_key(database, FIRST_KEY_NAME)
            show.line(f"  API key    {secret}")
            show.line("             Shown this once; only its digest is stored. The page asks for it at /login.")
        show.line()
    finally:
        database.dispose()


def _stop(reef: ReefProcesses, show: Show, stop: _StopSignals) -> None:
    stop.served()
    if stop.asked.is_set():
        show.line("Stopping: running replies finish or are handed back. Ctrl-C again stops at once.")

    def hurry() -> None:
        stop.again.wait()
        reef.stop(timeout_s=0.0)

    threading.Thread(target=hurry, daemon=True, name="hurry").start()
    reef.stop()
    if stop.asked.is_set():
        show.good("Stopped.")
