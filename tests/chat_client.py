"""A WebSocket client as a careful program would write one: it follows runs, obeys `restarted` and resumes by number."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

FINAL = ("done", "stopped", "error")


class Run:
    """What the client knows of one run."""

    def __init__(self, run_id: str, session_id: str) -> None:
        self.run_id, self.session_id = run_id, session_id
        self.events: list[dict[str, Any]] = []
        self.text = ""
        self.last_seq = 0
        self.final: dict[str, Any] | None = None
        self.times: list[float] = []

    def take(self, event: dict[str, Any]) -> None:
        """Apply one event."""
        if event["seq"]:
            if event["seq"] <= self.last_seq:
                return
            self.last_seq = event["seq"]
        self.events.append(event)
        self.times.append(time.monotonic())
        if event["type"] == "token":
            self.text += event["content"]
        elif event["type"] == "restarted":
            self.text = ""
        elif event["type"] in FINAL:
            self.final = event

    @property
    def types(self) -> list[str]:
        """Types of its events, repeated tokens and readings left out."""
        seen: list[str] = []
        for event in self.events:
            if not seen or event["type"] != seen[-1]:
                seen.append(event["type"])
        return seen


class ChatClient:
    """One socket."""

    def __init__(self, url: str) -> None:
        self.url = url.replace("http", "ws", 1) + "/ws"
        self.socket: ClientConnection | None = None
        self._stack = ExitStack()
        self.runs: dict[str, Run] = {}
        self.errors: list[dict[str, Any]] = []

    def __enter__(self) -> ChatClient:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, patience_s: float = 30.0) -> None:
        """Connect, trying again while the server is away or goes away, and resume every unfinished run."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self.close()
                connecting = connect(self.url, compression=None, open_timeout=5, max_size=None, proxy=None)
                self.socket = self._stack.enter_context(connecting)
                for run in self.runs.values():
                    if run.final is None:
                        self.send({"type": "resume", "run_id": run.run_id, "last_seq": run.last_seq})
                break
            except (OSError, WebSocketException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        """Leave."""
        self._stack.close()
        self.socket = None

    def send(self, frame: dict[str, Any]) -> None:
        """Send a frame."""
        assert self.socket is not None
        self.socket.send(json.dumps(frame))

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next event, already applied to its run. Raises TimeoutError and ConnectionClosed."""
        assert self.socket is not None
        event: dict[str, Any] = json.loads(self.socket.recv(timeout_s))
        run_id = event.get("run_id")
        if run_id:
            run = self.runs.setdefault(run_id, Run(run_id, event.get("session_id", "")))
            run.take(event)
        elif event["type"] == "error":
            self.errors.append(event)
        return event

    def say(self, message: str, *, persona: str = "alice", **fields: Any) -> Run:
        """Send a chat frame and wait until its run is named. Raises AssertionError where it is refused."""
        known = set(self.runs)
        self.send({"type": "chat", "persona_id": persona, "message": message, **fields})
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            event = self.receive(20)
            assert event["type"] != "error" or event.get("run_id"), event
            if new := set(self.runs) - known:
                return self.runs[new.pop()]
        raise AssertionError("no run was named")

    def follow(
        self, run: Run, until: Callable[[Run], bool], timeout_s: float = 30.0, *, reconnect: bool = False
    ) -> Run:
        """Receive until the condition holds; with `reconnect`, through any number of lost connections."""
        deadline = time.monotonic() + timeout_s
        while not until(run):
            left = deadline - time.monotonic()
            assert left > 0, f"run {run.run_id} after {timeout_s} s: {run.types}, {len(run.text)} characters"
            try:
                self.receive(left)
            except TimeoutError:
                continue
            except ConnectionClosed:
                if not reconnect:
                    raise
                self.open()
        return run

    def stop(self, run: Run) -> Run:
        """Ask for the end of a run, and receive until it has come."""
        self.send({"type": "stop", "run_id": run.run_id})
        return self.finish(run)

    def finish(self, run: Run, timeout_s: float = 60.0, *, reconnect: bool = False) -> Run:
        """Receive until the run has ended."""
        return self.follow(run, lambda one: one.final is not None, timeout_s, reconnect=reconnect)


def tokens_at_least(count: int) -> Callable[[Run], bool]:
    """A condition for `follow`: that many token events have come."""
    return lambda run: sum(event["type"] == "token" for event in run.events) >= count
