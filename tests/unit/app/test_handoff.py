"""A WebSocket changes its process: both ends over real sockets, the gateway's in a loop in a thread."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from app import handoff
from app.gateway import adoption, place
from app.gateway.adoption import Adoption
from app.handoff import Gateway
from reef.contracts import handover
from reef.contracts.handover import Ask, Handover, Refused, Report, Taken
from websocket_fabric import Connection, WebSocketServer
from websocket_fabric.handshake import accept_key
from websocket_fabric.messages import Data, Message

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HELLO = b"\x81\x85\0\0\0\0hello"
ECHO = b"\x81\x05hello"
PATIENCE_S = 10.0


class Far:
    """The gateway's end, echoing, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.outcomes = path, Counter[str]()
        self.has_room = True
        self.requests: list[Any] = []
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.adoption = self.call(self._open())

    async def _open(self) -> Adoption:
        self.server = WebSocketServer()

        @self.server.on_connect
        def note(connection: Connection) -> None:
            self.requests.append(connection.request)

        @self.server.on_message
        async def echo(message: Message) -> Data:
            return message.data

        await self.server.start()
        opened = Adoption(
            self.server,
            has_room=lambda: self.has_room,
            report=lambda: Report(sockets_open=7, metrics="# none\n"),
            count=lambda outcome: self.outcomes.update([outcome]),
        )
        opened.start(self.path)
        return opened

    def call(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Run it in the loop."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(PATIENCE_S)

    def do(self, what: Callable[[], Any]) -> Any:
        """Call it in the loop."""

        async def run() -> Any:
            return what()

        return self.call(run())

    def hold(self) -> threading.Event:
        """Freeze the loop until this event is set."""
        frozen, thaw = threading.Event(), threading.Event()

        def freeze() -> None:
            frozen.set()
            thaw.wait(PATIENCE_S)

        self.loop.call_soon_threadsafe(freeze)
        assert frozen.wait(PATIENCE_S)
        return thaw

    def settle(self, outcome: str, times: int = 1) -> None:
        """Wait until this has become of so many sockets."""
        deadline = time.monotonic() + PATIENCE_S
        while self.outcomes[outcome] < times:
            assert time.monotonic() < deadline, self.outcomes
            time.sleep(0.005)

    def close(self) -> None:
        async def end() -> None:
            await self.adoption.close()
            await self.server.stop()

        self.call(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    """A gateway that echoes."""
    end = Far(tmp_path / "run" / "gateway.sock")
    yield end
    end.close()


class Near:
    """The web process's end, with what it counted, and clients whose sockets it accepted."""

    def __init__(self, path: Path) -> None:
        self.outcomes: list[str] = []
        self.gateway = Gateway(path, self.outcomes.append)
        self.clients: list[socket.socket] = []

    def client(self, **fields: Any) -> tuple[socket.socket, dict[str, Any]]:
        """A client, and the request in which it was accepted."""
        client, accepted = socket.socketpair()
        client.settimeout(PATIENCE_S)
        self.clients += [client, accepted]
        unreader = SimpleNamespace(buf=io.BytesIO(fields.pop("read_ahead", b"")))
        environ = {
            "gunicorn.socket": accepted,
            "wsgi.input": SimpleNamespace(reader=SimpleNamespace(unreader=unreader)),
            "RAW_URI": "/ws?x=%20",
            "REMOTE_ADDR": "10.1.2.3",
            "HTTP_HOST": "localhost",
            "HTTP_UPGRADE": "websocket",
            "HTTP_CONNECTION": "Upgrade",
            "HTTP_SEC_WEBSOCKET_VERSION": "13",
            "HTTP_SEC_WEBSOCKET_KEY": KEY,
            "HTTP_COOKIE": "reef_key=secret",
            "HTTP_AUTHORIZATION": "Bearer secret",
        }
        return client, environ | fields

    def hand_over(self, environ: dict[str, Any]) -> str:
        """What became of it. Gone: its socket is closed here, as gunicorn does it then."""
        gone = self.gateway.hand_over(environ, "req1")
        assert gone is (self.outcomes[-1] in ("handed_over", "unclear"))
        if gone:
            environ["gunicorn.socket"].close()
        return self.outcomes[-1]

    def close(self) -> None:
        self.gateway.close()
        for one in self.clients:
            one.close()


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Near]:
    """The web process's end for it."""
    end = Near(tmp_path / "run" / "gateway.sock")
    yield end
    end.close()


def read(client: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        assert more, data
        data += more
    return data


def read_head(client: socket.socket) -> bytes:
    """The answer to the handshake."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += read(client, 1)
    return data


def untouched(client: socket.socket) -> bool:
    """Nothing has come, and the connection is open."""
    client.settimeout(0)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    finally:
        client.settimeout(PATIENCE_S)
    return False


def test_a_client_is_served_at_the_other_end(far: Far, near: Near) -> None:
    """Its handshake is answered there, what it had sent already is not lost, and secrets stay behind."""
    client, environ = near.client(read_ahead=HELLO)
    assert near.hand_over(environ) == "handed_over"
    assert accept_key(KEY).encode() in read_head(client)
    assert read(client, len(ECHO)) == ECHO
    client.sendall(HELLO)
    assert read(client, len(ECHO)) == ECHO
    request = far.requests[0]
    assert request.target == "/ws?x=%20"
    assert (request.headers["x-client-address"], request.headers["x-request-id"]) == ("10.1.2.3", "req1")
    assert "secret" not in str(request)
    far.settle("adopted")


def test_many_at_once_over_a_few_connections(far: Far, near: Near) -> None:
    """More clients than connections: each is served, none waits for ever, and no connection is left over."""
    pairs = [near.client() for _ in range(3 * handoff.CONNECTIONS_MAX)]
    threads = [threading.Thread(target=near.gateway.hand_over, args=(environ, "many")) for _, environ in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert Counter(near.outcomes) == {"handed_over": len(pairs)}
    for client, _ in pairs:
        assert b" 101 " in read_head(client)
    assert near.gateway._kept.qsize() <= handoff.CONNECTIONS_MAX


def test_without_a_gateway_nothing_happens(near: Near) -> None:
    """Nobody there: it is said at once, and the client is as it was."""
    client, environ = near.client()
    began = time.monotonic()
    assert near.hand_over(environ) == "absent"
    assert time.monotonic() - began < handoff.HANDOVER_S
    assert untouched(client)
    assert near.gateway.report() is None


def test_a_gateway_that_is_full_or_stops_says_so(far: Far, near: Near) -> None:
    """Its words come back, and the client is as it was."""
    far.has_room = False
    client, environ = near.client()
    assert near.hand_over(environ) == "full"
    assert untouched(client)
    far.has_room = True
    far.do(far.adoption.stop)
    assert near.hand_over(environ) == "stopping", "over the connection that was kept"
    assert untouched(client)
    near.gateway.close()
    assert near.hand_over(environ) == "absent"
    assert not far.path.exists()


def test_a_frozen_gateway_never_touches_what_was_kept_from_it(far: Far, near: Near) -> None:
    """It answers too late: the client is served here, and when the gateway goes on it finds the offer withdrawn."""
    client, environ = near.client()
    thaw = far.hold()
    began = time.monotonic()
    assert near.hand_over(environ) == "busy"
    assert near.hand_over(environ) == "busy", "left alone for a moment"
    assert time.monotonic() - began < 2 * handoff.HANDOVER_S
    thaw.set()
    far.settle("withdrawn")
    assert untouched(client)
    near.gateway._rests_until = 0.0
    assert near.hand_over(environ) == "handed_over"
    assert b" 101 " in read_head(client)


def test_an_answer_that_came_in_the_last_moment_counts(tmp_path: Path, near: Near) -> None:
    """The gateway has answered and died, with a packet of ours unread: what it had taken is not served here as well."""
    listening = place.Listening(tmp_path / "run" / "gateway.sock")
    listening.socket.setblocking(True)
    client, environ = near.client()

    def answer_and_die() -> None:
        peer, _ = listening.socket.accept()
        peer.recv(1, socket.MSG_PEEK)
        peer.send(handover.encode(Taken()))
        peer.close()

    thread = threading.Thread(target=answer_and_die)
    thread.start()
    assert near.hand_over(environ) == "handed_over"
    thread.join(PATIENCE_S)
    assert client.recv(1) == b"", "closed at both ends: the client comes again"
    listening.close()


def test_a_restarted_gateway_is_found_behind_kept_connections(far: Far, near: Near) -> None:
    """Connections to the one that died are thrown away, not believed."""
    first, environ = near.client()
    assert near.hand_over(environ) == "handed_over"
    assert b" 101 " in read_head(first)
    far.call(far.adoption.close())
    second = Far(far.path)
    client, environ = near.client()
    assert near.hand_over(environ) == "handed_over"
    assert b" 101 " in read_head(client)
    client.close()
    second.close()


def test_what_cannot_be_passed_on_is_served_here(far: Far, near: Near) -> None:
    """No socket, a body, more headers than a packet holds."""
    for fields, outcome in (
        ({"gunicorn.socket": None}, "unfit"),
        ({"CONTENT_LENGTH": "5"}, "unfit"),
        ({"HTTP_X_LONG": "x" * handover.MESSAGE_BYTES_MAX}, "too_long"),
    ):
        client, environ = near.client(**fields)
        assert near.hand_over(environ) == outcome
        assert untouched(client)
    assert not far.outcomes


def test_the_socket_is_for_this_user_alone_and_a_successor_keeps_its_own(tmp_path: Path) -> None:
    """Mode 0600; the end of one that was replaced does not take the other's socket away."""
    path = tmp_path / "run" / "gateway.sock"
    first = place.Listening(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = place.Listening(path)
    first.close()
    place.connect(path, 1.0).close()
    second.close()
    assert not path.exists()


def test_a_data_directory_with_a_long_path_has_its_socket_too(tmp_path: Path) -> None:
    """The kernel's limit of 107 bytes is that of a name, not of a place."""
    far = Far(tmp_path / ("long" * 40) / "run" / "gateway.sock")
    ask_once(far.path)
    assert far.path.is_socket()
    far.close()


def ask_once(path: Path) -> None:
    """The gateway says how it is."""
    gateway = Gateway(path)
    assert gateway.report() == Report(sockets_open=7, metrics="# none\n")
    gateway.close()


def offer(**fields: Any) -> bytes:
    """A packet that hands over."""
    return handover.encode(Handover(target="/ws", headers={}, **fields))


@pytest.mark.parametrize(
    ("packet", "descriptors"),
    [
        (b"{", 0),
        (b"{", 1),
        (b"[]", 1),
        (offer(version=2), 1),
        (offer(), 0),
        (offer(), 2),
        (offer(), adoption.DESCRIPTORS_MAX + 1),
        (handover.encode(Ask()), 1),
        (offer(request_id="x" * handover.MESSAGE_BYTES_MAX), 1),
    ],
)
def test_what_is_malformed_is_refused_and_closed(far: Far, packet: bytes, descriptors: int) -> None:
    """Every descriptor that came with it is closed, its sender is hung up on, and others are served."""
    reader, writer = os.pipe()
    with place.connect(far.path, PATIENCE_S) as peer:
        socket.send_fds(peer, [packet], [writer] * descriptors)
        os.close(writer)
        answer = handover.decode_answer(peer.recv(handover.ANSWER_BYTES_MAX))
        assert isinstance(answer, Refused)
        assert answer.reason == "malformed"
        assert peer.recv(1) == b""
    assert os.read(reader, 1) == b"", "the gateway holds the other end open"
    os.close(reader)
    ask_once(far.path)


@pytest.mark.parametrize("make", [os.pipe, lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)])
def test_a_descriptor_that_is_no_stream_is_refused(far: Far, make: Callable[[], tuple[Any, Any]]) -> None:
    """A pipe and a datagram socket."""
    ends = [end if isinstance(end, int) else end.detach() for end in make()]
    with place.connect(far.path, PATIENCE_S) as peer:
        socket.send_fds(peer, [offer()], [ends[1]])
        answer = handover.decode_answer(peer.recv(handover.ANSWER_BYTES_MAX))
        assert isinstance(answer, Refused)
    for end in ends:
        os.close(end)


def test_more_peers_than_places_are_hung_up_on(far: Far) -> None:
    """The bound holds, and the places come back."""
    peers = [place.connect(far.path, PATIENCE_S) for _ in range(adoption.PEERS_MAX)]
    for peer in peers:
        peer.send(handover.encode(Ask()))
        assert isinstance(handover.decode_answer(peer.recv(handover.ANSWER_BYTES_MAX)), Report)
    with place.connect(far.path, PATIENCE_S) as one_more:
        assert one_more.recv(1) == b""
    for peer in peers:
        peer.close()
    gateway = Gateway(far.path)
    deadline = time.monotonic() + PATIENCE_S
    while gateway.report() is None:
        assert time.monotonic() < deadline
    gateway.close()


def test_an_answer_that_means_nothing_leaves_the_client_alone(tmp_path: Path, near: Near) -> None:
    """Whose the socket is cannot be known then: it is served by nobody here."""
    listening = place.Listening(tmp_path / "run" / "gateway.sock")
    listening.socket.setblocking(True)

    def answer() -> None:
        peer, _ = listening.socket.accept()
        with peer:
            peer.recv(handover.MESSAGE_BYTES_MAX)
            peer.send(b"{}")

    thread = threading.Thread(target=answer)
    thread.start()
    _, environ = near.client()
    assert near.hand_over(environ) == "unclear"
    thread.join(PATIENCE_S)
    listening.close()


def test_messages_of_the_first_version_are_read() -> None:
    """The golden packets, and unknown fields beside them."""
    golden = Path(__file__).parents[2] / "contract" / "golden"
    request = handover.decode_request((golden / "handover.1.json").read_bytes())
    assert isinstance(request, Handover)
    assert request.first_bytes == HELLO
    read_back = msgspec.json.decode((golden / "handover.1.json").read_bytes())
    assert msgspec.json.decode(handover.encode(request)) == {k: v for k, v in read_back.items() if k != "later"}
