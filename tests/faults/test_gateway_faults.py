"""WebSockets live in the gateway, and nobody who chats notices when it dies, when it is frozen, or who floods it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from chat_client import ChatClient, Run, tokens_at_least
from click.testing import CliRunner, Result
from crowd import LONG, Crowd
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_sync
from whole_product import SIMULATED_QUEUES, Reef, StartReef, running_reef

from cli.main import main

PATIENCE_S = 30.0


def queues(streams: int, token_ms: int, devices: str = "[simulated]") -> str:
    """A pool of devices for so many conversations each, at this pace."""
    changes = {
        "devices: [simulated]": f"devices: {devices}",
        "model: simulated": f'model: "simulated:token_ms={token_ms}"',
        "streams: 8": f"streams: {streams}",
        "waiting_max: 64": "waiting_max: 1024",
        "deadline_s: 120": "deadline_s: 600",
        "tokens_max: 512": "tokens_max: 2000",
    }
    text = SIMULATED_QUEUES
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    return text


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """A running product for all tests of this file: each leaves it serving."""
    with running_reef(tmp_path_factory.mktemp("gateway"), queues(128, 30)) as started:
        yield started


@pytest.fixture(autouse=True)
def gateway_serves(request: pytest.FixtureRequest) -> None:
    """Every test begins with a gateway that takes sockets, and with none that another test has left."""
    if "reef" in request.fixturenames:
        reef: Reef = request.getfixturevalue("reef")
        wait_for_gateway(reef)
        no_socket_is_open(reef)
        with through_gateway(reef):  # where it was too slow for one, the web process leaves it alone for a moment
            pass
        no_socket_is_open(reef)


def wait_for_gateway(reef: Reef) -> None:
    """Until it says that it serves."""
    wait_until(lambda: reef.get("/api/v1/system/status")["gateway"] == "ok", "the gateway")


def no_socket_is_open(reef: Reef) -> None:
    """Until both processes have noticed that their clients left."""
    wait_until(lambda: reef.get("/api/v1/system/status")["sockets_open"] == 0, "the sockets to be closed")


@contextlib.contextmanager
def through_gateway(reef: Reef) -> Iterator[ChatClient]:
    """A client whose socket the gateway holds. One that it does not take within half a second is served by the web
    process, which is no fault: that one leaves and comes again."""
    with ChatClient(reef.url) as chat:

        def is_taken() -> bool:
            chat.send({"type": "ping"})
            assert chat.receive(PATIENCE_S) == {"type": "pong"}
            if metric(reef, HELD_BY_WEB) == 0:
                return True
            chat.close()
            wait_until(lambda: metric(reef, HELD_BY_WEB) == 0, "the web process to notice that it left")
            chat.open()
            return False

        wait_until(is_taken, "the gateway to take a socket")
        yield chat


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Poll something that has no event of its own."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for: {what}"
        time.sleep(0.02)


def metric(reef: Reef, series: str) -> float:
    """A number of /metrics, 0 where it is not there yet."""
    with reef.client() as client:
        found = re.search(rf"^{re.escape(series)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def settles(reef: Reef, series: str, value: float) -> None:
    """Until a number of /metrics is this: what happened is counted a moment later, and a gateway that is busy for a
    second is left out."""
    wait_until(lambda: metric(reef, series) == value, f"{series} to be {value:g}")


PINGS = 15
HANDED = 'coralreef_handovers_total{outcome="handed_over"}'
HELD_BY_GATEWAY = 'coralreef_websocket_connections{process="gateway"}'
HELD_BY_WEB = 'coralreef_websocket_connections{process="web"}'


def kill_under(reef: Reef, sockets: int, streams: int) -> Crowd:
    """kill -9 of the gateway while all these streams are live; each comes back, to whatever is there, and is whole."""
    crowd = Crowd(reef.url, sockets, streams)

    def fault() -> int:
        wait_until(lambda: metric(reef, HELD_BY_GATEWAY) > sockets / 2, "the gateway to say that it holds most")
        held = sockets - metric(reef, HELD_BY_WEB)
        reef.kill("gateway")
        return int(held)

    asyncio.run(crowd.chat(fault))
    with reef.client() as client:
        for run in crowd.all:
            assert run.final is not None
            assert run.final["type"] == "stopped", run.final
            assert "restarted" not in run.types, "no worker was touched"
            assert client.get(f"/api/v1/messages/{run.final['message_id']}").json()["content"] == run.text
    assert len(crowd.all) == streams
    assert crowd.doubled == 0
    return crowd


def test_the_health_check_asks_the_gateway_itself(reef: Reef, tmp_path: Path) -> None:
    """`coral-reef alive --gateway`, as containers ask: yes where it runs, no where another directory is looked at."""

    def ask(data_dir: Path) -> Result:
        environment = reef.settings.changed(data_dir=data_dir, database_url=reef.settings.sqlalchemy_url).environment()
        return CliRunner(env=environment).invoke(main, ["alive", "--gateway"])

    def is_alive() -> bool:
        here = ask(reef.data_dir)
        return (here.exit_code, here.output) == (0, "alive\n")

    wait_until(is_alive, "an answer within the second that it waits for one")
    elsewhere = ask(tmp_path)
    assert elsewhere.exit_code != 0
    assert "gateway does not answer" in elsewhere.output


def test_a_chat_goes_over_the_gateway_and_the_web_process_is_rid_of_it(reef: Reef) -> None:
    """Its sockets are the gateway's alone: the web process holds no descriptor of them, and counts none."""
    (worker,) = psutil.Process(reef.processes.pids()["web"]).children()
    before, open_before = metric(reef, HANDED), worker.num_fds()
    with contextlib.ExitStack() as stack:
        chats = [stack.enter_context(through_gateway(reef)) for _ in range(20)]
        settles(reef, HANDED, before + 20)
        settles(reef, HELD_BY_GATEWAY, 20)
        assert metric(reef, HELD_BY_WEB) == 0
        wait_until(lambda: reef.get("/api/v1/system/status")["sockets_open"] == 20, "the status to count all")
        wait_until(lambda: worker.num_fds() < open_before + 8, "descriptors to be closed")
        run = chats[0].finish(chats[0].say("hello"))
    assert run.final is not None
    assert reef.get(f"/api/v1/messages/{run.final['message_id']}")["content"] == run.text
    settles(reef, "coralreef_gateway_up", 1)
    settles(reef, HELD_BY_GATEWAY, 0)
    wait_until(
        lambda: metric(reef, 'coralreef_gateway_messages_total{direction="in"}') >= 21, "what came to be counted"
    )


def test_a_frame_that_came_with_its_handshake_is_not_lost(reef: Reef) -> None:
    """On a connection that served a request before: gunicorn had read the frame already, and the gateway answers it."""
    address = httpx.URL(reef.url)
    before = metric(reef, HANDED)
    head = f"HTTP/1.1\r\nHost: {address.netloc.decode()}\r\n"
    upgrade = f"{head}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    ping = b'\x81\x8f\0\0\0\0{"type":"ping"}'

    def is_taken() -> bool:
        with socket.create_connection((address.host, address.port), timeout=PATIENCE_S) as raw:
            raw.sendall(f"GET /healthz {head}\r\n".encode())
            assert receive(raw, b'{"status":"ok"}').startswith(b"HTTP/1.1 200")
            raw.sendall(f"GET /ws {upgrade}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode() + ping)
            answer = receive(raw, b'{"type":"pong"}')
        assert answer.startswith(b"HTTP/1.1 101")
        assert answer.count(b"HTTP/1.1") == 1, "two processes answered"
        return metric(reef, HANDED) > before

    wait_until(is_taken, "the gateway to be the one that answers: it has half a second for it")


def receive(raw: socket.socket, end: bytes) -> bytes:
    """What comes until these bytes have come."""
    data = b""
    while not data.endswith(end):
        more = raw.recv(65_536)
        assert more, data
        data += more
    return data


def test_a_killed_gateway_loses_and_doubles_nothing(reef: Reef) -> None:
    """A hundred live streams on twelve sockets come back, to the web process or to its successor, and are whole."""
    kill_under(reef, 12, 100)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_gateway_killed_under_a_thousand_streams(start_reef: StartReef) -> None:
    """The same with a thousand live streams on a hundred sockets."""
    big = start_reef(queues(250, 1000, '["simulated:0-3"]'))
    wait_for_gateway(big)
    began = time.monotonic()
    crowd = kill_under(big, 100, 1000)
    print(f"{len(crowd.all)} streams, {crowd.reconnects} reconnects, {time.monotonic() - began:.0f} s")


def test_a_gateway_that_is_told_to_stop_says_goodbye(reef: Reef) -> None:
    """1001 with the words of the web process's own host, and whoever comes again is served at once."""
    with through_gateway(reef) as chat:
        run = chat.follow(chat.say(LONG), tokens_at_least(3))
        pid = reef.kill("gateway", signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as caught:
            chat.finish(run)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1001, "The server restarts; come again.")
        chat.open()
        chat.stop(run)
    reef.replaced("gateway", pid)
    assert run.final is not None
    assert reef.get(f"/api/v1/messages/{run.final['message_id']}")["content"] == run.text
    assert "Traceback" not in (reef.data_dir / "logs" / "gateway.log").read_text()


def test_streams_go_on_while_the_web_process_is_gone(reef: Reef) -> None:
    """kill -9 of the front door: the sockets that the gateway holds do not even notice."""
    with through_gateway(reef) as chat:
        run = chat.follow(chat.say(LONG), tokens_at_least(3))
        reef.replaced("web", reef.kill("web"))
        chat.stop(run)
    assert run.final is not None
    wait_until(lambda: web_answers(reef), "the web process")
    assert reef.get(f"/api/v1/messages/{run.final['message_id']}")["content"] == run.text


def web_answers(reef: Reef) -> bool:
    """Whether the front door is there."""
    try:
        return bool(reef.get("/healthz"))
    except httpx.TransportError:
        return False


def test_a_frozen_gateway_holds_up_nobody_who_comes(reef: Reef) -> None:
    """The web process waits half a second, then serves the client itself; it keeps it when the other thaws."""
    pid = reef.freeze("gateway")
    try:
        began = time.monotonic()
        with ChatClient(reef.url) as chat:
            run = chat.follow(chat.say("hello"), tokens_at_least(2))
            assert time.monotonic() - began < 5.0
            status = reef.get("/api/v1/system/status")
            assert (status["gateway"], status["sockets_open"]) == ("down", 1)
            assert metric(reef, "coralreef_gateway_up") == 0
            os.kill(pid, signal.SIGCONT)
            chat.finish(run)
            assert metric(reef, HELD_BY_WEB) == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    withdrawn = 'coralreef_gateway_adoptions_total{outcome="withdrawn"}'
    wait_until(lambda: metric(reef, withdrawn) >= 1, "the gateway to find that the offer was withdrawn")


def test_a_foreign_page_is_refused_before_anything_is_handed_over(reef: Reef) -> None:
    """So is a handshake that is none: in words, by the web process."""
    before = metric(reef, HANDED)
    url = reef.url.replace("http", "ws") + "/ws"
    with pytest.raises(InvalidStatus) as caught:
        connect_sync(url, origin="http://evil.example", proxy=None)
    assert caught.value.response.status_code == httpx.codes.FORBIDDEN
    with reef.client() as client:
        broken = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        answer = client.get("/ws", headers=broken)
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert "Sec-WebSocket-Key" in answer.json()["detail"]
    assert metric(reef, HANDED) == before


async def drown(url: str, frame: str, ends: Counter[int]) -> None:
    """Send and never read, until it is ended or cancelled."""
    socket = await connect(url, compression=None, proxy=None, max_queue=1, close_timeout=0.1)
    try:
        while True:
            await socket.send(frame)
            await asyncio.sleep(0)
    except ConnectionClosed as closed:
        ends[closed.rcvd.code if closed.rcvd else 1006] += 1
    finally:
        socket.transport.abort()


def test_a_flood_beyond_the_limits_is_not_felt_by_others(reef: Reef) -> None:
    """Clients that send without reading wait or are ended; another's chat goes on, and its pings are answered."""
    url = reef.url.replace("http", "ws") + "/ws"
    flood = ['{"type":"ping"}', '{"type":"resume","run_id":"nobody","last_seq":0}', "[" * 9000]
    took_s: list[float] = []
    ends: Counter[int] = Counter()

    def talk() -> Run:
        with ChatClient(reef.url) as chat:
            run, asked = chat.say(LONG), 0.0
            while len(took_s) < PINGS:
                kind = chat.receive(PATIENCE_S)["type"]
                if kind == "pong":
                    took_s.append(time.monotonic() - asked)
                    asked = 0.0
                elif kind == "token" and not asked:
                    asked = time.monotonic()
                    chat.send({"type": "ping"})
            return chat.stop(run)

    async def storm() -> Run:
        drowning = [asyncio.create_task(drown(url, frame, ends)) for frame in flood * 2]
        run = await asyncio.to_thread(talk)
        for one in drowning:
            one.cancel()
        for end in await asyncio.gather(*drowning, return_exceptions=True):
            if isinstance(end, Exception):
                raise end
        return run

    run = asyncio.run(storm())
    assert run.final is not None
    assert reef.get(f"/api/v1/messages/{run.final['message_id']}")["content"] == run.text
    assert sorted(took_s)[len(took_s) // 2] < 0.5, "others wait"
    assert set(ends) <= {1006, 1013}, ends


def test_a_frame_beyond_all_measure_ends_its_connection(reef: Reef) -> None:
    """1009; one that is only too long is thrown away and answered."""
    with connect_sync(reef.url.replace("http", "ws") + "/ws", proxy=None) as socket:
        socket.send("x" * (300 * 1024))
        assert json.loads(socket.recv(PATIENCE_S))["code"] == "too_long"

        def go_beyond() -> None:
            socket.send("x" * (2 * 1024 * 1024))
            socket.recv(PATIENCE_S)

        with pytest.raises(ConnectionClosed) as caught:
            go_beyond()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009
