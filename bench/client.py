"""A client of the running product that takes the time of everything it hears. Knows the public protocol only."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect

FINAL = ("done", "stopped", "error")
TURN_MAX_S = 300.0


class Turn(msgspec.Struct, kw_only=True):
    """One chat frame and what came back. Times are seconds of time.perf_counter; 0 where it did not come."""

    session_id: str
    sent: float
    run_id: str = ""
    device: str = ""
    queued: float = 0.0
    started: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    end: str = ""
    code: str = ""
    retry_after_s: float | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    chars: int = 0
    metrics: dict[str, float] = {}
    token_times: list[float] = []

    @property
    def ttft_s(self) -> float:
        """Frame sent to first text heard."""
        return self.first - self.sent

    def hear(self, event: dict[str, Any]) -> None:
        """Note one event."""
        now = time.perf_counter()
        kind = event["type"]
        if kind == "token":
            self.first = self.first or now
            self.chars += len(event["content"])
            self.token_times.append(now)
        elif kind == "queued":
            self.queued = self.queued or now
            self.run_id = event["run_id"]
        elif kind == "started":
            self.started, self.device = now, event["device"]
        elif kind in FINAL:
            self.ended, self.end = now, kind
            usage = event.get("usage", {})
            self.tokens, self.prompt_tokens = usage.get("completion", 0), usage.get("prompt", 0)
            self.code, self.retry_after_s = event.get("code", ""), event.get("retry_after_s")
            self.metrics = event.get("metrics", {})


class Conversation:
    """One socket and one session on it."""

    def __init__(self, socket: ClientConnection, persona_id: str) -> None:
        self.socket, self.persona_id = socket, persona_id
        self.session_id = uuid.uuid4().hex

    def renew(self) -> None:
        """Begin another session on the same socket."""
        self.session_id = uuid.uuid4().hex

    async def send(self, text: str, tokens_max: int) -> Turn:
        """Say something; its events are not heard yet."""
        frame = {
            "type": "chat",
            "persona_id": self.persona_id,
            "message": text,
            "session_id": self.session_id,
            "tokens_max": tokens_max,
        }
        body = json.dumps(frame)
        turn = Turn(session_id=self.session_id, sent=time.perf_counter())
        await self.socket.send(body)
        return turn

    async def hear(self, turn: Turn, *, until_tokens: int = 0) -> Turn:
        """Hear the turn's events to its end, or until so many token events have come."""
        async with asyncio.timeout(TURN_MAX_S):
            while not turn.end and not (until_tokens and len(turn.token_times) >= until_tokens):
                turn.hear(json.loads(await self.socket.recv()))
        return turn

    async def say(self, text: str, tokens_max: int) -> Turn:
        """One whole turn."""
        return await self.hear(await self.send(text, tokens_max))

    async def stop(self, run_id: str) -> None:
        """Ask for the end of a run."""
        await self.socket.send(json.dumps({"type": "stop", "run_id": run_id}))


@asynccontextmanager
async def conversations(url: str, persona_id: str, count: int) -> AsyncIterator[list[Conversation]]:
    """So many open sockets."""
    address = url.replace("http", "ws", 1) + "/ws"
    async with AsyncExitStack() as stack:
        sockets = []
        for _ in range(count):
            connecting = connect(address, compression=None, proxy=None, max_size=None, ping_interval=None)
            sockets.append(await stack.enter_async_context(connecting))
        yield [Conversation(socket, persona_id) for socket in sockets]


def make_persona(url: str, system_prompt: str, temperature: float = 0.0) -> str:
    """A persona for this bench; its id."""
    body = {"name": "Bench", "system_prompt": system_prompt, "temperature": temperature, "greeting": ""}
    answer = httpx.post(f"{url}/api/v1/personas", json=body, trust_env=False).raise_for_status()
    return str(answer.json()["id"])


async def all_say(talkers: Sequence[Conversation], texts: Sequence[str], tokens_max: int) -> list[Turn]:
    """Everybody says something at once; the turns when all have ended."""
    turns = [await one.send(text, tokens_max) for one, text in zip(talkers, texts, strict=True)]
    return await asyncio.gather(*(one.hear(turn) for one, turn in zip(talkers, turns, strict=True)))
