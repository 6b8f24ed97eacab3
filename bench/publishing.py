"""Runs whose tokens are published at a chosen pace, as a worker publishes them: `python -m bench.publishing COUNT`.

A process of its own, so that its work does not count as the measured one's. The runs are rows of the ledger, claimed by
nobody that works; what is sent is what reef/streams.py queues, each token saying when it was sent (`t=` and nanoseconds
of the monotonic clock, which all processes of a machine share). Prints the ids of the runs, then a line for each line
`RATE SECONDS` that it reads.
"""

from __future__ import annotations

import socket
import sys
import time
import uuid
from typing import Any, cast

import hiredis
import msgspec
import redis

from reef import streams
from reef.contracts.events import Token
from reef.contracts.jobs import CompletionJob
from reef.ledger import Ledger, NewJob
from reef.records.database import Database
from reef.settings import load_settings

OWNER = "bench"
LEASE_S = 3600.0
TOKEN = 1
"""The fencing token of a first claim."""
TICK_S = 0.001
"""What is due is sent together, as a worker sends what all its streams have said."""
PLACE = "t=00000000000000000000 "
"""Where a token says when it was sent; of the same length for every token."""
REPLIES = 3
"""Of one event: appended, announced, its log's lifetime prolonged."""


class Published(msgspec.Struct, frozen=True):
    """What was sent, and how long that took."""

    events: int
    took_s: float
    late_s: float
    """How far the publisher itself was behind its pace at worst."""


def start_runs(ledger: Ledger, count: int) -> list[str]:
    """So many running runs."""
    ids = [uuid.uuid4().hex for _ in range(count)]
    with ledger.database.write() as connection:
        for run_id in ids:
            job = CompletionJob(messages=[{"role": "user", "content": "Go on."}], tokens_max=1)
            new = NewJob(job=job, job_id=run_id, deadline_s=LEASE_S, attempts_max=1, session_id=f"bench-{run_id}")
            ledger.submit(connection, new, waiting_max=count + 1, streams=1)
    for run_id in ids:
        claim = ledger.claim(run_id, OWNER, LEASE_S)
        if claim is None or claim.token != TOKEN:
            raise RuntimeError(f"run {run_id} was not there to be claimed")
    return ids


class Publisher:
    """Sends prepared commands over a connection of its own: encoding each token anew would be all it could do."""

    def __init__(self, redis_url: str, run_ids: list[str]) -> None:
        self._pool = pool = redis.ConnectionPool.from_url(redis_url, protocol=2)
        self._connection = cast(Any, pool.get_connection())
        self._socket: socket.socket = self._connection._sock
        self._replies = hiredis.Reader()
        pipeline = redis.Redis(connection_pool=pool).pipeline(transaction=False)
        self._templates = [self._template(pipeline, run_id) for run_id in run_ids]
        self._told = [0] * len(run_ids)
        self._next = 0
        self._awaited = 0

    def _template(self, pipeline: redis.client.Pipeline, run_id: str) -> bytes:
        event = Token(content=PLACE, run_id=run_id, session_id=f"bench-{run_id}", seq=streams.number(TOKEN, 0))
        streams.queue_append(pipeline, event)
        commands = [arguments for arguments, _ in pipeline.command_stack]
        pipeline.reset()
        return b"".join(self._connection.pack_commands(commands))

    def publish(self, rate: float, seconds: float) -> Published:
        """Publish to all runs in turn."""
        total, sent, late_s = int(rate * seconds), 0, 0.0
        began = time.monotonic()
        while sent < total:
            passed = time.monotonic() - began
            due = min(int(passed * rate) + 1, total)
            if due > sent:
                late_s = max(late_s, passed - sent / rate)
                self._socket.sendall(b"".join(self._one() for _ in range(due - sent)))
                self._awaited += REPLIES * (due - sent)
                sent = due
                self._read(socket.MSG_DONTWAIT)
            time.sleep(max(TICK_S, sent / rate - (time.monotonic() - began)) if rate < 1 / TICK_S else TICK_S)
        took_s = time.monotonic() - began
        while self._awaited:
            self._read(0)
        return Published(sent, took_s, late_s)

    def close(self) -> None:
        """Let go of the connection."""
        self._pool.disconnect()

    def _one(self) -> bytes:
        at = self._next
        self._next = (at + 1) % len(self._templates)
        self._told[at] += 1
        seq = b"%d" % streams.number(TOKEN, self._told[at])
        command = self._templates[at].replace(b"%d" % streams.number(TOKEN, 0), seq)
        return command.replace(PLACE.encode(), b"t=%020d " % time.monotonic_ns())

    def _read(self, flags: int) -> None:
        try:
            self._replies.feed(self._socket.recv(1 << 18, flags))
        except BlockingIOError:
            return
        while (reply := self._replies.gets()) is not False:
            if isinstance(reply, Exception):
                raise reply
            self._awaited -= 1


def main() -> None:
    """Do what stdin says."""
    settings = load_settings()
    database = Database(settings.sqlalchemy_url)
    run_ids = start_runs(Ledger(database), int(sys.argv[1]))
    database.dispose()
    publisher = Publisher(settings.redis_url, run_ids)
    print(msgspec.json.encode(run_ids).decode(), flush=True)
    for line in sys.stdin:
        rate, seconds = line.split()
        print(msgspec.json.encode(publisher.publish(float(rate), float(seconds))).decode(), flush=True)


if __name__ == "__main__":
    main()
