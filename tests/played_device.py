"""A device that is played by hand: what a worker does to ledger and streams, step by step."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

import msgspec
import redis
import sqlalchemy as sa

from reef import keys, streams
from reef.contracts.events import Done, Event, Started, Stopped, Token, Typing, Usage
from reef.contracts.jobs import ChatJob, EmbedTextsJob, InferenceJob, QueryJob
from reef.contracts.nodes import NodeReport
from reef.conversation import store
from reef.ledger import Claim, JobRecord, Ledger
from reef.records.database import Database
from reef.records.tables import jobs
from reef.settings import Settings

NODE = "chat-simulated"
RESULTS: dict[str, dict[str, Any]] = {
    QueryJob.TASK: {"passages": [], "model": "played", "tokens": 1, "embed_s": 0.0, "search_s": 0.0},
    EmbedTextsJob.TASK: {"vectors": ["AACAPw=="], "model": "played", "tokens": 1},
    InferenceJob.TASK: {"model": "played", "device": "simulated", "outputs": [], "labels": [], "device_s": 0.0},
}
"""What a device that is played by hand says to who waits for a job of another kind."""
PATIENCE_S = 15.0


class Act:
    """One attempt at a run, played by hand: its events, its end."""

    def __init__(self, stage: Stage, claim: Claim) -> None:
        self.stage, self.claim = stage, claim
        self.n = 0
        self.text = ""

    def emit(self, event: Event) -> int:
        """Append an event with its number."""
        self.n += 1
        seq = streams.number(self.claim.token, self.n)
        job = self.claim.job
        event = msgspec.structs.replace(event, run_id=job.id, session_id=job.session_id or "", seq=seq)
        streams.append(self.stage.redis, [event])
        return seq

    def begin(self) -> Act:
        """Say that the device took it."""
        self.emit(Started(persona_id=self.persona_id, device="simulated", model="test-model"))
        self.emit(Typing(persona_id=self.persona_id))
        return self

    @property
    def persona_id(self) -> str:
        return str(json.loads(self.claim.job.payload).get("persona_id") or "")

    def say(self, *pieces: str) -> Act:
        """Add text."""
        for piece in pieces:
            self.text += piece
            self.emit(Token(content=piece))
        return self

    def store_end(self, state: str = "done") -> Event:
        """Make the end durable and give the event that tells it."""
        usage = Usage(7, len(self.text.split()))
        job = self.claim.job
        result: dict[str, Any] = {"usage": usage, "finish_reason": "stop" if state == "done" else "cancelled"}
        message_id = ""
        message: store.Message | None = None
        if job.task == ChatJob.TASK:
            chat = msgspec.json.decode(job.payload, type=ChatJob)
            message_id = chat.reply_message_id
            message = store.new_message(
                chat.session_id,
                "assistant",
                self.text,
                id=message_id,
                persona_id=chat.persona_id,
                run_id=job.id,
                usage=usage,
                state="complete" if state == "done" else "stopped",
            )
            result["message_id"] = message_id
        elif job.task in RESULTS:
            result = RESULTS[job.task]
        else:
            result["content"] = self.text

        def write(connection: sa.Connection) -> None:
            if message is not None:
                store.add_message(connection, message)

        assert self.stage.ledger.finish(self.claim, state, result=result, within=write)
        if state == "cancelled":
            return Stopped(usage=usage, message_id=message_id)
        return Done(usage=usage, message_id=message_id)

    def finished(self) -> Act:
        """End it well."""
        self.done()
        return self

    def done(self) -> str:
        """End it well; gives the id of the reply's message."""
        final = self.store_end()
        self.emit(final)
        return getattr(final, "message_id", "")


class Stage:
    """Ledger, streams and heartbeat from a worker's side."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.sqlalchemy_url)
        self.ledger = Ledger(self.database)
        self.redis = redis.Redis.from_url(settings.redis_url)

    def waiting(self) -> list[str]:
        """Runs that wait, oldest first."""
        query = sa.select(jobs.c.id).where(jobs.c.state == "queued").order_by(jobs.c.created_at)
        with self.database.read() as connection:
            return list(connection.execute(query).scalars())

    def take(self, run_id: str = "") -> Act:
        """Claim this run, or the next one that waits."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for candidate in [run_id] if run_id else self.waiting():
                claim = self.ledger.claim(candidate, NODE, 30.0)
                if claim is not None:
                    return Act(self, claim)
            time.sleep(0.005)
        raise AssertionError(f"no run to take: {run_id or 'none waits'}")

    def record(self, run_id: str) -> JobRecord:
        return self.ledger.get(run_id)

    def report(self, **fields: Any) -> None:
        """Be alive, as a worker would say it."""
        said = {"node": NODE, "pool": "chat", "device": "simulated", "kind": "simulated", "host": "here", "pid": 1}
        report = NodeReport(**(said | {"at": time.time(), "state": "ready", "model": "test-model"} | fields))
        self.redis.hset(keys.NODES, NODE, msgspec.json.encode(report))  # type: ignore[arg-type]

    def close(self) -> None:
        """Let go of database and broker."""
        self.database.dispose()
        self.redis.close()

    def clear(self) -> None:
        """End what waits or runs, so that tests do not meet each other's jobs."""
        with self.database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.state.in_(("queued", "running"))).values(state="cancelled"))
        self.redis.delete(keys.NODES)


class Answerer:
    """A device that answers every run with the same text, in a thread."""

    def __init__(self, stage: Stage, text: str = "Hello from the reef.") -> None:
        self.stage, self.text = stage, text
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.wait(0.005):
            for run_id in self.stage.waiting():
                claim = self.stage.ledger.claim(run_id, NODE, 30.0)
                if claim is not None:
                    act = Act(self.stage, claim).begin()
                    act.say(*(word + " " for word in self.text.split(" ")))
                    with contextlib.suppress(sa.exc.IntegrityError):  # its session was deleted meanwhile
                        act.done()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
