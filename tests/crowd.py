"""Many streams over some WebSockets at once, whose clients come again and resume when they are cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from chat_client import Run
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

TOGETHER_S = 240.0
"""For all that a crowd does."""
LONG = "Tell me about the sea. " * 80
"""Answered with 1,200 tokens: there is time for a fault however slow the machine is. Then the reply is stopped."""


class Crowd:
    """Many streams over some sockets. Each socket comes again and resumes when it is lost."""

    def __init__(self, url: str, sockets: int, streams: int) -> None:
        self.url = url.replace("http", "ws", 1) + "/ws"
        self.wanted = [streams // sockets + (n < streams % sockets) for n in range(sockets)]
        self.runs: list[dict[str, Run]] = [{} for _ in range(sockets)]
        self.sockets: dict[int, ClientConnection] = {}
        self.reconnects = self.doubled = 0
        self._stopping = False

    @property
    def all(self) -> list[Run]:
        """Every run there is."""
        return [run for runs in self.runs for run in runs.values()]

    async def chat(self, fault: Callable[[], int]) -> None:
        """Begin every stream; when all are live comes the fault; when all have gone on, each is stopped.

        `fault` says how many sockets it cuts.
        """
        async with asyncio.timeout(TOGETHER_S), asyncio.TaskGroup() as group:
            for n in range(len(self.wanted)):
                group.create_task(self._one(n))
            await self._until(lambda: len(self.all) == sum(self.wanted) and all(run.text for run in self.all))
            assert not any(run.final for run in self.all), "they were to be live"
            heard = {run.run_id: len(run.events) for run in self.all}
            cut = fault()
            await self._until(lambda: self.reconnects >= cut)
            await self._until(lambda: all(len(run.events) > heard[run.run_id] for run in self.all))
            self._stopping = True
            for n, socket in self.sockets.items():
                with contextlib.suppress(ConnectionClosed):  # it says so again when it is back
                    await self._stop(n, socket)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.02)

    async def _one(self, n: int) -> None:
        asked = 0
        while asked < self.wanted[n] or self._unfinished(n):
            self.sockets[n] = socket = await self._connect()
            try:
                for run in self._unfinished(n):
                    await _send(socket, type="resume", run_id=run.run_id, last_seq=run.last_seq)
                while asked < self.wanted[n]:
                    await _send(socket, type="chat", persona_id="alice", message=LONG)
                    asked += 1
                if self._stopping:
                    await self._stop(n, socket)
                await self._read(n, socket)
            except ConnectionClosed:
                self.reconnects += 1
            finally:
                await socket.close()

    def _unfinished(self, n: int) -> list[Run]:
        return [run for run in self.runs[n].values() if run.final is None]

    async def _stop(self, n: int, socket: ClientConnection) -> None:
        for run in self._unfinished(n):
            await _send(socket, type="stop", run_id=run.run_id)

    async def _connect(self) -> ClientConnection:
        while True:
            try:
                return await connect(self.url, compression=None, max_size=None, proxy=None, open_timeout=10)
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(0.05)

    async def _read(self, n: int, socket: ClientConnection) -> None:
        runs = self.runs[n]
        while len(runs) < self.wanted[n] or self._unfinished(n):
            event: dict[str, Any] = json.loads(await socket.recv())
            assert event.get("run_id"), event
            run = runs.setdefault(event["run_id"], Run(event["run_id"], event["session_id"]))
            self.doubled += 0 < event["seq"] <= run.last_seq
            run.take(event)


async def _send(socket: ClientConnection, **frame: Any) -> None:
    await socket.send(json.dumps(frame))
