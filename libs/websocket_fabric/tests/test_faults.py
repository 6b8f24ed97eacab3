"""What a server does with clients that are slow, gone, hostile or too many, and that the others do not notice.

Every server runs in a process of its own (fault_host.py), whose memory and files are looked at from outside.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from raw_peer import PATIENCE_S, HostProcess, RawPeer, request, running_host

HOSTS = ("asyncio", "gevent")
MESSAGE_BYTES = 64 * 1024
QUICK = {"close_timeout_s": 0.2, "shutdown_timeout_s": 1.0}
LEAVING = {"close_timeout_s": 0.8, "shutdown_timeout_s": 2.5}
SMALL_QUEUE = {"outbox_messages_max": 64, "outbox_bytes_max": 128 * 1024, "socket_send_bytes": 32 * 1024, **QUICK}
SOON = {"idle_timeout_s": 0.2, "ping_timeout_s": 0.5}
DRIP_S = 1.0
"""For a handshake; whoever makes an honest one meanwhile must not be stopped so long in the middle of it."""
PROFILES: dict[str, dict[str, Any]] = {
    "plain": {"message_bytes_max": MESSAGE_BYTES, **QUICK},
    "deflate": {"message_bytes_max": MESSAGE_BYTES, "deflate": True, **QUICK},
    "origins": {"origins": ["https://reef.example"], **QUICK},
    "closing": {"when_full": "close", **SMALL_QUEUE},
    "dropping": {"when_full": "drop_oldest", **SMALL_QUEUE},
    "blocking": {"when_full": "block", **SMALL_QUEUE},
    "dropping soon": {"when_full": "drop_oldest", **SMALL_QUEUE, **SOON},
    "blocking soon": {"when_full": "block", **SMALL_QUEUE, **SOON},
    "asking": {**SOON, **QUICK},
    "asking patiently": {"idle_timeout_s": 0.1, "ping_timeout_s": 1.5, **QUICK},
    "few": {"connections_max": 4, **QUICK},
    "dripping": {"connections_max": 300, "handshake_timeout_s": DRIP_S, **QUICK},
}
RECEIVE_BYTES = 16 * 1024
"""What the kernel holds for a client that does not read."""
QUEUES_BYTES = 1024 * 1024
"""The queue of SMALL_QUEUE, the transport's and the kernel's buffers, generously."""
PUSHED_MAX = 400
"""Messages of 60 KB that a client gets rid of before TCP stops it: inbox, and the kernel's buffers on both sides."""
INBOX = 64
BOMB_BYTES = 200 * 1000 * 1000
BOMB_COSTS_BYTES = 8 * 1024 * 1024
FLOOD_COSTS_BYTES = 24 * 1024 * 1024


@pytest.fixture(scope="module", params=HOSTS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each host in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def shared_host(kind: str) -> Iterator[HostProcess]:
    """A process with a server for each profile; no test may break it."""
    with running_host(kind, PROFILES) as started:
        yield started


@pytest.fixture
def host(shared_host: HostProcess) -> Iterator[HostProcess]:
    """The shared process, without the connections of other tests."""
    yield shared_host
    shared_host.hang_up()


@pytest.fixture(scope="module")
def shared_asyncio_host() -> Iterator[HostProcess]:
    """The asyncio host."""
    with running_host("asyncio", PROFILES) as started:
        yield started


@pytest.fixture
def core_host(shared_asyncio_host: HostProcess) -> Iterator[HostProcess]:
    """For what both hosts have in common: one of them is enough."""
    yield shared_asyncio_host
    shared_asyncio_host.hang_up()


@pytest.fixture
def own_host(kind: str) -> Iterator[HostProcess]:
    """A process for this test alone."""
    with running_host(kind, {"own": {"connections_max": 20_000, **LEAVING}}) as started:
        yield started


def numbers(messages: list[str | bytes]) -> list[int]:
    """Which of the numbered messages these are."""
    return [int(str(message).rstrip(".")) for message in messages]


# --- clients that read slowly, or not at all


def test_a_slow_reader_gets_everything_in_order(host: HostProcess) -> None:
    """The handler waits for it, and the server holds no more for it than its queue."""
    before = host.forget_peak()
    with host.peer("blocking", receive_bytes=RECEIVE_BYTES) as slow:
        slow.send("stream 3000 2000")
        got = numbers([slow.receive(read_bytes=1024) or "" for _ in range(3000)])
    assert got == list(range(3000))
    assert host.peak_bytes() - before < QUEUES_BYTES


def test_who_never_reads_is_told_to_come_again(host: HostProcess) -> None:
    """Policy `close`: what waits is thrown away and the connection closed with 1013."""
    with host.peer("closing", "/deaf-closing", receive_bytes=RECEIVE_BYTES) as deaf:
        deaf.send("pour 3000 2000")
        assert host.fate("deaf-closing") == [1013, "You read slower than you are written to."]
    assert host.counts("closing")["messages_dropped"] > 64


def test_who_never_reads_loses_the_oldest(host: HostProcess) -> None:
    """Policy `drop_oldest`: it stays connected, and gets the newest in order once it reads."""
    with host.peer("dropping", receive_bytes=RECEIVE_BYTES) as deaf:
        deaf.send("pour 3000 2000", "and?")
        got = numbers(list(iter(deaf.receive, "and?")))
    assert got == sorted(set(got))
    assert got[-50:] == list(range(2950, 3000))
    assert host.counts("dropping")["messages_dropped"] == 3000 - len(got) > 0


def test_who_never_reads_is_not_read_either(host: HostProcess) -> None:
    """Policy `block`: its own messages wait with it, and the handler that does not wait is stopped by the bound."""
    with host.peer("blocking", receive_bytes=RECEIVE_BYTES) as deaf:
        deaf.send("stream 3000 2000")
        assert deaf.push("x" * 60_000) < PUSHED_MAX
    with host.peer("blocking", "/pouring", receive_bytes=RECEIVE_BYTES) as pouring:
        pouring.send("pour 3000 2000")
        assert host.fate("pouring")[0] == 1013


def test_who_answers_nothing_is_cut_off(host: HostProcess) -> None:
    """Half open, or taking nothing whatever the policy: gone after idle and ping time. Who answers pings stays."""
    answering = host.peer("asking patiently")
    listening = threading.Thread(target=answering.receive)
    listening.start()
    host.peer("asking", "/half-open")
    for policy in ("dropping soon", "blocking soon"):
        host.peer(policy, f"/{policy.split()[0]}", receive_bytes=RECEIVE_BYTES).send("stream 3000 2000")
    assert host.fate("half-open") == [1006, "silent for 0.5 s after a ping"]
    assert host.fate("dropping")[0] == host.fate("blocking")[0] == 1006
    deadline = time.monotonic() + PATIENCE_S
    while answering.pings_answered < 2:  # asked again, so its answer was heard
        assert time.monotonic() < deadline
        time.sleep(0.01)
    answering.send("still here")
    listening.join(PATIENCE_S)
    assert not listening.is_alive()
    assert not answering.protocol.closed


# --- clients that are too many, or too fast


def drop_at_once(host: HostProcess, count: int) -> None:
    """Open so many connections, lose them all at once, and see that nothing of them remains."""
    with host.peer("own") as control:
        files = host.files()
        peers = [host.peer("own") for _ in range(count)]
        assert [peer.ask("here") for peer in peers] == ["here"] * count
        for peer in peers:
            peer.send("pour 5 1000")
            peer.reset()
        assert control.ask("still served") == "still served"
        host.wait_for_files(files)
        assert host.counts("own")["connections"] == 2


def test_a_thousand_connections_dropped_at_once(own_host: HostProcess) -> None:
    """Their files are closed, their places free, and who stayed is served."""
    drop_at_once(own_host, 1000)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_ten_thousand_connections_dropped_at_once(own_host: HostProcess) -> None:
    """As many as the limit of open files allows, ten thousand at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.prlimit(own_host.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    try:
        drop_at_once(own_host, count)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_flood_does_not_reach_the_others(host: HostProcess) -> None:
    """Clients that send without end and never read are closed or held back; the others are answered, memory stays."""
    before = host.forget_peak()
    flooding = [host.peer("closing", receive_bytes=RECEIVE_BYTES) for _ in range(4)]
    over = threading.Event()

    def flood(peer: RawPeer) -> None:
        block = b"".join(peer.protocol.message("flood") for _ in range(5000))
        with contextlib.suppress(OSError):
            while not over.is_set():
                peer.socket.sendall(block)

    threads = [threading.Thread(target=flood, args=(peer,)) for peer in flooding]
    for thread in threads:
        thread.start()
    with host.peer("closing") as other:
        assert [other.ask(f"{number}") for number in range(20)] == [f"{number}" for number in range(20)]
        over.set()
        for peer, thread in zip(flooding, threads, strict=True):
            with contextlib.suppress(OSError):  # it is closed already
                peer.socket.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)
        assert other.ask("after it") == "after it"
    assert host.peak_bytes() - before < FLOOD_COSTS_BYTES


def test_a_handler_that_waits_holds_its_client_back(host: HostProcess) -> None:
    """Messages ahead of the handler are bounded; then nothing is read, and TCP holds the client."""
    before = host.counts("plain")["bytes_in"]
    with host.peer("plain") as eager:
        eager.send("rest 600")
        assert eager.push("x" * 60_000) < PUSHED_MAX
        assert host.counts("plain")["bytes_in"] - before < 2 * INBOX * 60_000


def test_one_connection_more_than_the_limit_is_refused(core_host: HostProcess) -> None:
    """With 503; who leaves makes room."""
    peers = [core_host.peer("few", f"/{number}") for number in range(4)]
    assert core_host.refused("few") == 503
    peers[0].send("x" * 5)
    assert peers[0].receive() == "x" * 5
    peers[0].reset()
    deadline = time.monotonic() + PATIENCE_S
    while core_host.refused("few") != 101:
        assert time.monotonic() < deadline, "its place was not given back"
    for peer in peers[1:]:
        assert peer.ask("here") == "here"
        peer.close()


def test_handshakes_that_drip_are_cut_off_and_others_are_served(core_host: HostProcess) -> None:
    """Two hundred clients send a byte now and then (slow loris); none gets more than the time for a handshake."""
    dripping = [core_host.raw("dripping") for _ in range(200)]
    whole = request("/", "X-Long: " + "x" * 4000)
    began = time.monotonic()
    open_ones, at = set(range(len(dripping))), 0
    while open_ones:
        for number in list(open_ones):
            try:
                dripping[number].socket.send(whole[at : at + 1])
            except OSError:
                open_ones.discard(number)
        at += 1
        with core_host.peer("dripping") as real:
            assert real.ask("in between") == "in between"
        assert time.monotonic() - began < PATIENCE_S, f"{len(open_ones)} still drip"
    assert time.monotonic() - began >= DRIP_S


# --- clients that break the rules


def test_a_message_that_is_too_long_is_refused_at_its_head(core_host: HostProcess) -> None:
    """1009 before its bytes came, in one frame or in many; one of exactly the limit is served."""
    with core_host.peer("plain") as fitting:
        assert fitting.ask("x" * MESSAGE_BYTES) == "x" * MESSAGE_BYTES
    for length in (MESSAGE_BYTES + 1, 1 << 40, (1 << 63) - 1):
        with core_host.peer("plain") as huge:
            huge.socket.sendall(b"\x82\xff" + length.to_bytes(8, "big") + b"mask")
            assert huge.end()[0] == 1009
    with core_host.peer("plain") as pieces:
        piece = b"\xfe" + (60_000).to_bytes(2, "big") + bytes(4)
        pieces.socket.sendall(b"\x02" + piece + bytes(60_000) + b"\x00" + piece)
        assert pieces.end()[0] == 1009


@pytest.mark.parametrize(
    "frames",
    [b"\x81\x82\0\0\0\0\xc3\x28", b"\x01\x81\0\0\0\0\xf4\x00\x81\0\0\0\0\x90", b"\x81\x83\0\0\0\0\xed\xa0\x80"],
    ids=["whole", "at the second fragment", "surrogate"],
)
def test_text_that_is_no_utf8_is_refused(core_host: HostProcess, frames: bytes) -> None:
    """With 1007, in fragments at the first wrong byte, without waiting for the last."""
    with core_host.peer("plain") as peer:
        peer.socket.sendall(frames)
        assert peer.end()[0] == 1007


def test_pages_of_other_sites_are_refused(core_host: HostProcess) -> None:
    """403 for an Origin that is not on the list; programs name none and may come."""
    assert core_host.refused("origins", "Origin: https://evil.example") == 403
    assert core_host.refused("origins", "Origin: https://reef.example.evil.example") == 403
    assert core_host.refused("origins", "Origin: null") == 403
    assert core_host.refused("origins", "Origin: https://reef.example") == 101
    assert core_host.refused("origins") == 101


def bomb(size: int) -> bytes:
    """A compressed text frame of so many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1_000_000)
    payload = b"".join(packer.compress(block) for _ in range(size // len(block)))
    payload = (payload + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")
    assert len(payload) >= 65536
    return b"\xc2\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload


def test_a_compression_bomb_costs_little(core_host: HostProcess) -> None:
    """Two hundred megabytes in two hundred kilobytes, twenty at once, also below the limit of what is sent: 1009."""
    deflate = "Sec-WebSocket-Extensions: permessage-deflate"
    small = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = small.compress(bytes(50_000_000)) + small.flush(zlib.Z_SYNC_FLUSH)
    below = b"\xc2\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload
    assert len(payload) < MESSAGE_BYTES
    for frame in (bomb(BOMB_BYTES), below):
        before = core_host.forget_peak()
        peers = [core_host.peer("deflate", "/", deflate) for _ in range(20)]
        for peer in peers:
            with contextlib.suppress(ConnectionError):  # refused at its head, while it was still being sent
                peer.socket.sendall(frame)
        for peer in peers:
            assert peer.end()[0] == 1009
            peer.close()
        assert core_host.peak_bytes() - before < BOMB_COSTS_BYTES


# --- the server leaves


def test_a_graceful_stop_under_load_loses_no_answer(own_host: HostProcess) -> None:
    """SIGTERM while twenty clients talk: each has a gapless beginning of what it asked answered, then 1001. A handler
    that was waiting is answered; one that would wait for ever is not waited for."""
    talking = [own_host.peer("own") for _ in range(20)]
    answers: list[list[str | bytes]] = [[] for _ in talking]

    def talk(number: int) -> None:
        peer, asked = talking[number], 0
        while True:
            with contextlib.suppress(OSError):  # the server may be gone already: what it said last is still to be read
                peer.send(*(f"{one}" for one in range(asked, asked + 5)))
            asked += 5
            while len(answers[number]) < asked:
                answer = peer.receive()
                if answer is None:
                    return
                answers[number].append(answer)

    resting, endless = own_host.peer("own"), own_host.peer("own")
    resting.send("rest 0.2")
    endless.send("rest 600")
    leaving = threading.Thread(target=endless.rest)
    threads = [leaving, *(threading.Thread(target=talk, args=(number,)) for number in range(len(talking)))]
    for thread in threads:
        thread.start()
    while own_host.counts("own")["messages_in"] < 200:
        time.sleep(0.01)
    began = time.monotonic()
    own_host.process.terminate()
    assert resting.rest() == ["rested 0.2"]
    assert own_host.process.wait(PATIENCE_S) == 0
    took_s = time.monotonic() - began
    for thread in threads:
        thread.join(PATIENCE_S)
    assert took_s < LEAVING["shutdown_timeout_s"] + LEAVING["close_timeout_s"] + 5
    for number, peer in enumerate(talking):
        assert numbers(answers[number]) == list(range(len(answers[number])))
        assert (peer.protocol.close_code, peer.protocol.close_reason) == (1001, "The server is stopping; come again.")
    assert resting.protocol.close_code == endless.protocol.close_code == 1001


def test_a_server_that_stops_takes_nobody_new(own_host: HostProcess) -> None:
    """While one handler is still waited for, the port is closed."""
    with own_host.peer("own") as resting:
        resting.send("rest 0.2")
        while own_host.counts("own")["messages_in"] < 2:  # it and a question for the counts
            time.sleep(0.01)
        own_host.process.terminate()
        deadline = time.monotonic() + PATIENCE_S
        while _listens(own_host.ports["own"]):
            assert time.monotonic() < deadline, "it still listens"
        assert resting.rest() == ["rested 0.2"]
    assert own_host.process.wait(PATIENCE_S) == 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
