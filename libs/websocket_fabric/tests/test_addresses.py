"""Where a server listens: what is an address, and whose socket is removed from the file system."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from websocket_fabric import WebSocketServer
from websocket_fabric.addresses import Address, UnixPlace, read_address
from websocket_fabric.gevent_server import GeventServer


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address(host="127.0.0.1", port=8080)),
        ("0.0.0.0:0", Address(host="0.0.0.0")),
        ("chat.example:65535", Address(host="chat.example", port=65535)),
        ("[::1]:8080", Address(host="::1", port=8080)),
        ("unix:/run/chat.sock", Address(path="/run/chat.sock")),
    ],
)
def test_an_address_is_a_host_and_a_port_or_a_path(text: str, address: Address) -> None:
    """Port 0 is any that is free."""
    assert read_address(text) == address


@pytest.mark.parametrize(
    "text", ["8080", ":8080", "127.0.0.1", "127.0.0.1:", "::1:8080", "http://a:80", "a b:80", "127.0.0.1:²", "unix:"]
)
def test_without_a_host_it_is_none(text: str) -> None:
    """Nobody listens on every interface by having left something out; the words say what to write."""
    with pytest.raises(ValueError, match=r"no address; write host:port.*A host is needed"):
        read_address(text)


def test_a_port_has_sixteen_bits() -> None:
    """And what has more is told so before anything is bound."""
    with pytest.raises(ValueError, match="a port is 0 to 65535"):
        asyncio.run(WebSocketServer("127.0.0.1:99999").start())


async def _on_asyncio(server: WebSocketServer, then: Callable[[], None]) -> None:
    await server.start()
    try:
        then()
    finally:
        await server.stop()


def _on_gevent(server: Any, then: Callable[[], None]) -> None:
    server.start()
    try:
        then()
    finally:
        server.stop()


def serve(kind: type[WebSocketServer], path: Path, then: Callable[[], None]) -> None:
    """Listen there, do this, stop."""
    server = kind(f"unix:{path}")
    if kind is GeventServer:
        _on_gevent(server, then)
    else:
        running: Awaitable[None] = _on_asyncio(server, then)
        asyncio.run(running)  # type: ignore[arg-type]


hosts = pytest.mark.parametrize("kind", [WebSocketServer, GeventServer])


@hosts
def test_a_file_that_is_no_socket_stays(kind: type[WebSocketServer], tmp_path: Path) -> None:
    """A mistyped path costs nobody's file."""
    path = tmp_path / "precious"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"no socket.*precious"):
        serve(kind, path, pytest.fail)
    assert path.read_text() == "precious"


@hosts
def test_a_living_servers_socket_stays(kind: type[WebSocketServer], tmp_path: Path) -> None:
    """Also one whose backlog is full: it is not waited for."""
    path = tmp_path / "living"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen(0)
        # whoever asks first fills the backlog
        for _ in range(2):
            with pytest.raises(OSError, match="Somebody listens there"):
                serve(kind, path, pytest.fail)
        assert path.is_socket()


@hosts
def test_a_dead_servers_socket_makes_room_and_ours_goes_when_we_go(kind: type[WebSocketServer], tmp_path: Path) -> None:
    """One that nobody answers was left by somebody who was killed."""
    path = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    before = path.stat().st_ino, path.stat().st_ctime_ns
    serve(kind, path, lambda: _differs(path, before))
    assert not path.exists()


def _differs(path: Path, before: tuple[int, int]) -> None:
    assert (path.stat().st_ino, path.stat().st_ctime_ns) != before
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@hosts
def test_what_somebody_put_in_our_place_stays(kind: type[WebSocketServer], tmp_path: Path) -> None:
    """A later server that took the path over keeps it when the earlier one stops."""
    path = tmp_path / "shared"
    later = UnixPlace(str(path))

    def take_over() -> None:
        path.unlink()
        later.bind().close()

    serve(kind, path, take_over)
    assert path.is_socket()
    later.free()
    assert not path.exists()
    later.free()
