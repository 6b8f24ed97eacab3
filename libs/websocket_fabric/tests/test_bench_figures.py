"""What the bench prints follows from what it measured, and its load client notices an answer that is wrong."""

from __future__ import annotations

import math
import os
import socket
import threading
from collections.abc import Iterator

import bench_table
import fabric_bench
import load_client
import pytest

SHORT = {"seconds": 0.5, "warm": 0.0}


def test_a_ratio_compares_each_round_with_the_same_round_of_the_peer() -> None:
    """A round in which the machine was busy slows both, and does not change what one is of the other."""
    assert bench_table.times([400.0, 40.0, 420.0], [100.0, 10.0, 100.0]) == 4.0
    assert bench_table.median([]) != bench_table.median([])  # nan: nothing was measured


def test_growth_is_the_slope_of_all_points_not_the_last_minus_the_first() -> None:
    """One high reading at the end is no growth of its size."""
    flat_then_high = [(float(at), 100.0) for at in range(9)] + [(9.0, 200.0)]
    assert bench_table.slope([(0.0, 5.0), (10.0, 25.0)]) == pytest.approx(2.0)
    assert 0 < bench_table.slope(flat_then_high) < 100 / 9
    assert bench_table.slope([(0.0, 1.0)]) == 0.0


def test_the_echo_table_names_ratios_and_goals() -> None:
    """A goal is met where both ratios reach it; a server that was not measured has no goal."""
    figures = {"p50_us": [50.0], "p95_us": [60.0], "p99_us": [70.0], "one_per_s": [500_000.0], "many_per_s": [90_000.0]}
    slow = {**figures, "one_per_s": [50_000.0], "many_per_s": [30_000.0]}
    tables, goals = fabric_bench.tell_echo({"fabric-asyncio": figures, "flask-sock": slow})
    assert [goal.met for goal in goals] == [False]
    assert "10.0×, 3.0×" in goals[0].found
    assert tables[0].splitlines()[2].startswith("| fabric-asyncio | 50 / 60 / 70 |")
    assert "10.0×, 3.0×" in tables[0].splitlines()[3]
    assert bench_table.thousands(math.nan) == "–"


@pytest.fixture
def liar() -> Iterator[int]:
    """The port of a server that shakes hands and then answers everything with the same short text."""
    port = load_client.free_port()
    with socket.create_server(("127.0.0.1", port)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                accept = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
                connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + accept + b"\r\n")
                while connection.recv(65536):
                    connection.sendall(b"\x81\x02no")

        thread = threading.Thread(target=serve)
        thread.start()
        yield port
        thread.join(10)


def test_a_wrong_echo_ends_the_measurement(liar: int) -> None:
    """A server that is quick because it does not do the work has no figure."""
    with pytest.raises(RuntimeError, match="not every message came back"):
        load_client.measure("latency", liar, **SHORT)


@pytest.mark.parametrize("mode", ["latency", "throughput", "paced"])
def test_every_echo_of_this_library_is_the_message_that_was_sent(mode: str) -> None:
    """The client compares bytes and order, so that a figure stands for messages that came back."""
    with fabric_bench.serving("fabric-asyncio") as server:
        found = load_client.measure(mode, server.port, connections=3, **SHORT)
    assert found["wrong"] == found["broken"] == 0
    assert found["messages"] > 3


def test_a_soak_counts_connections_that_leave_and_come_again() -> None:
    """Closing and cutting off lose no message, and memory and files of the server can be read meanwhile."""
    with fabric_bench.serving("fabric-asyncio") as server:
        found = load_client.measure("soak", server.port, connections=20, rate=100, reconnect_every=20, seconds=0.5)
        assert server.rss_kb() > 1000
        assert server.files() < 40
    assert found["wrong"] == found["broken"] == 0
    assert found["closed"] > 0
    assert found["cut"] > 0


def test_the_client_is_compiled_once_for_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call finds the program of the first and needs no compiler."""
    program = load_client.build()
    monkeypatch.setattr(load_client.shutil, "which", lambda _name: None)
    assert load_client.build() == program
    assert os.access(program, os.X_OK)
