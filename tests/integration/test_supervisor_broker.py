"""The embedded broker, really started: private, durable, and back under the same URL after a kill."""

from __future__ import annotations

import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from reef.settings import inherited_environment
from workers import broker, vector_server
from workers.process_spec import ProcessSpec
from workers.supervisor import Supervisor

READY_S = 15.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Supervisor, broker.Endpoint, Path]]:
    """A broker under a supervisor."""
    keeper = Supervisor(tmp_path)
    endpoint, argv = broker.prepare(tmp_path / "broker")
    keeper.start(ProcessSpec("broker", argv, inherited_environment(), tmp_path, lambda: broker.answers(endpoint.url)))
    keeper.wait_ready("broker", READY_S)
    yield keeper, endpoint, tmp_path
    keeper.close()


def test_a_killed_broker_comes_back_with_its_data(
    running: tuple[Supervisor, broker.Endpoint, Path],
) -> None:
    """kill -9 of the broker loses nothing that is older than a second, and its URL stays the same."""
    keeper, endpoint, _ = running
    with redis.Redis.from_url(endpoint.url) as client:
        client.rpush("queue", "job")
    first = keeper.kill("broker")
    deadline = time.monotonic() + READY_S
    while keeper.pids().get("broker", first) == first or not broker.answers(endpoint.url):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with redis.Redis.from_url(endpoint.url) as client:
        assert client.lrange("queue", 0, -1) == [b"job"]


def test_the_broker_is_private(running: tuple[Supervisor, broker.Endpoint, Path]) -> None:
    """It asks for the password, listens on loopback only, and shows the password to no other user."""
    keeper, endpoint, directory = running
    with redis.Redis(port=endpoint.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    command_line = Path(f"/proc/{keeper.pids()['broker']}/cmdline").read_bytes()
    assert endpoint.password.encode() not in command_line
    for name in ("endpoint.json", "broker.conf"):
        assert stat.S_IMODE((directory / "broker" / name).stat().st_mode) == 0o600
    assert endpoint.password not in (directory / "broker.log").read_text()
    with redis.Redis.from_url(endpoint.url) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_port_and_password_are_kept_until_the_port_is_taken(tmp_path: Path) -> None:
    """A new start uses the old URL; where another program took the port, only the port changes."""
    first, _ = broker.prepare(tmp_path)
    assert broker.prepare(tmp_path)[0] == first
    with socket.create_server(("127.0.0.1", first.port)):
        second, _ = broker.prepare(tmp_path)
    assert second.port != first.port
    assert second.password == first.password
    assert broker.PORT_FIRST <= second.port < broker.PORT_LAST


def test_a_port_that_is_promised_to_the_web_process_is_left_to_it(tmp_path: Path) -> None:
    """It is free while broker and vector store look for theirs: the web process is started after them."""
    first, _ = broker.prepare(tmp_path / "broker")
    second, _ = broker.prepare(tmp_path / "broker", avoid=[first.port])
    assert second.port != first.port
    assert second.password == first.password
    store, _ = vector_server.prepare(tmp_path / "chroma")
    assert vector_server.prepare(tmp_path / "chroma")[0] == store
    assert vector_server.prepare(tmp_path / "chroma", avoid=[store.port])[0] != store
