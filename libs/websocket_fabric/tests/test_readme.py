"""The documents keep their word: the README's programs run, its limits are the code's, and what is named is there."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop
from served import HOST, WAIT_S, Peer, free_port, make, running, until

from websocket_fabric import (
    Backoff,
    ClientConnection,
    Connector,
    Limits,
    Message,
    ReconnectingClient,
    Rejected,
    WebSocketServer,
)
from websocket_fabric.handshake import build_request

LIBRARY = Path(__file__).parents[1]
README = (LIBRARY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SERVER, GEVENT, ROOM = '= WebSocketServer("127.0.0.1:8080")', "GeventServer", "class Told"
ADOPTING, CLIENT, FOLLOWER = "server.adopt", "asyncio.run(talk())", "asyncio.run(follow())"
LINK = re.compile(r"\]\(([^)#:]+)[^)]*\)")
MODULE = re.compile(r"^\| `(\w+\.py)` \|", re.MULTILINE)


def program(words: str, port: int = 0) -> str:
    """The block with these words, at another port."""
    [found] = [block for block in BLOCKS if words in block]
    return found.replace("127.0.0.1:8080", f"{HOST}:{port}")


def executed(text: str) -> dict[str, Any]:
    """The names of a program that was run here."""
    names: dict[str, Any] = {}
    exec(compile(text, "README.md", "exec", dont_inherit=True), names)
    return names


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return socket.create_connection((HOST, port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_every_program_has_its_test() -> None:
    """A block that is added needs one below."""
    known = (SERVER, GEVENT, ROOM, ADOPTING, CLIENT, FOLLOWER)
    assert [sum(words in block for words in known) for block in BLOCKS] == [1] * len(known)


def test_the_client_talks_to_both_servers(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the three programs as it is; the servers end well when they are told to."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARY / "src"), *sys.path])}
    servers: list[tuple[int, subprocess.Popen[bytes]]] = []
    try:
        for words in (SERVER, GEVENT):
            port = free_port()
            command = [sys.executable, "-c", program(words, port)]
            servers.append((port, subprocess.Popen(command, env=environment)))
        for port, server in servers:
            wait_for(port)
            executed(program(CLIENT, port))
            assert capsys.readouterr().out == "You said: hello\n"
            server.send_signal(signal.SIGTERM)
        assert [server.wait(WAIT_S) for _port, server in servers] == [0, 0]
    finally:
        for _port, server in servers:
            server.kill()
            server.wait()


def test_the_room(capsys: pytest.CaptureFixture[str]) -> None:
    """Who says no name is refused; the others hear each other, and who left."""

    async def main() -> None:
        async with running(executed(program(ROOM, free_port()))["server"]) as server:
            with pytest.raises(Rejected, match="401"):
                await Peer.open(server)
            ann = await Peer.open(server, headers=[("X-Name", "Ann")], subprotocols=["chat.v1"])
            ben = await Peer.open(server, headers=[("X-Name", "Ben")], origin="https://chat.example")
            assert [await ann.receive(), await ben.receive()] == ["Welcome.", "Welcome."]
            assert ann.subprotocol == "chat.v1"
            ann.send("hello")
            assert await ben.receive() == "Ann: hello"
            assert await ann.close() == 1000
            assert await ben.receive() == "Ann left."
            with pytest.raises(Rejected, match="403"):
                await Peer.open(server, headers=[("X-Name", "Eve")], origin="https://elsewhere.example")
            ben.cut()
            await until(lambda: not server.connections)

    uvloop.run(main())
    assert capsys.readouterr().out.splitlines() == ["Ann closed with 1000", "Ben closed with 1006"]


def test_an_adopted_socket_is_served() -> None:
    """Once its request is whole."""

    async def main() -> None:
        names = executed(program(ADOPTING))
        async with running(names["server"]):
            ours, theirs = socket.socketpair()
            asked = build_request(HOST).request
            peer = Peer(*await asyncio.open_connection(sock=theirs))
            assert not await names["take"](ours, asked[:-1])
            assert await names["take"](ours, asked + peer.protocol.message("too early"))
            assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await peer.receive() == "too early"
            assert await peer.close() == 1000

    uvloop.run(main())


def test_the_follower_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """Its connection is cut in the middle, and it hears each number once."""
    server = make()

    @server.on_message
    async def tell(message: Message) -> None:
        connection = message.connection
        assert connection is not None
        after = json.loads(message.data)["after"]
        for number in range(after + 1, after + 4):
            connection.send(json.dumps({"number": number, "text": "news"}))
        if after:
            connection.close()
        else:
            await until(lambda: server.counts.messages_out == 3)
            connection.abort()

    async def main() -> None:
        async with running(server):
            await asyncio.to_thread(executed, program(FOLLOWER, server.port))

    uvloop.run(main())
    told = [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert told == list(range(1, told[-1] + 1))
    assert len(told) in range(3, 7)


def test_the_table_of_limits_is_the_codes() -> None:
    """Every limit, with its default, in the code's order."""
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (?:both|server) \|", README, re.MULTILINE)
    assert [(name, eval(default)) for name, default in rows] == [
        (field.name, field.default) for field in dataclasses.fields(Limits)
    ]


def named(head: str) -> list[str]:
    """What the first column of this table names."""
    table = README.split(head)[1].split("\n\n")[0]
    cells = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(?:await )?(\w+)", cell)]


def test_what_the_table_of_a_connection_names_is_there() -> None:
    """Methods and properties of a live one."""
    server = WebSocketServer()
    connection = server._connection()
    names = named("| of a connection | |")
    assert len(names) > 10
    assert [name for name in names if not hasattr(connection, name)] == []


def test_what_the_tables_of_server_and_client_name_is_there() -> None:
    """Likewise."""
    assert set(named("| of a server | |")) <= set(dir(WebSocketServer()))

    async def made() -> ClientConnection:
        return ClientConnection(build_request("a"), "ws://a/", Limits(), None)

    connection = asyncio.run(made())
    assert set(named("| of a client's connection | |")) <= set(dir(connection))


@pytest.mark.parametrize(
    ("head", "made"),
    [
        ("| option of a server | |", WebSocketServer),
        ("| option of `connect` | |", Connector),
        ("| option of `ReconnectingClient` | |", ReconnectingClient),
    ],
)
def test_the_tables_of_options_are_the_codes(head: str, made: type) -> None:
    """Every option once, in any order."""
    options = [
        name for name, one in inspect.signature(made).parameters.items() if one.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    assert sorted(named(head)) == sorted(options)


def test_the_table_of_the_backoff_is_the_codes() -> None:
    """Every field, with its default, in the code's order."""
    table = README.split("| field of `Backoff` | default | |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table, re.MULTILINE)
    assert [(name, eval(default)) for name, default in rows] == [
        (field.name, field.default) for field in dataclasses.fields(Backoff)
    ]


def test_the_map_names_every_module() -> None:
    """Each once, and none that is not there."""
    architecture = (LIBRARY / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert sorted(MODULE.findall(architecture)) == sorted(
        path.name for path in (LIBRARY / "src" / "websocket_fabric").glob("*.py")
    )


@pytest.mark.parametrize(
    "document", [LIBRARY / "README.md", *sorted((LIBRARY / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(document: Path) -> None:
    """Those to files of the repository."""
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_strategy_names_every_file_of_tests() -> None:
    """A new one has a place in the table of categories."""
    strategy = (LIBRARY / "docs" / "TESTING_STRATEGY.md").read_text(encoding="utf-8")
    assert [path.name for path in Path(__file__).parent.glob("test_*.py") if f"/{path.name})" not in strategy] == []
