"""The gateway's end of the hand-over: packets with an accepted socket each come in, the socket goes to the server.

Only processes of this user are listened to, one packet at a time, each of a bounded size and with exactly one socket;
what is malformed is closed together with everything it brought. The answer is the moment at which a socket changes
hands: nothing is written to it before, and if the answer can no longer be sent, its sender has kept it.
"""

from __future__ import annotations

import array
import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from app.gateway.place import Listening, same_user
from reef.contracts import handover
from reef.contracts.handover import Answer, Ask, Handover, Refused, Report, Taken
from websocket_fabric import WebSocketServer
from websocket_fabric.handshake import Request

log = logging.getLogger(__name__)

PEERS_MAX = 64
"""Connections of web processes; one has CONNECTIONS_MAX of app/handoff.py at most."""
PACKETS_MAX = 16
"""Packets read of one peer before the others have their turn."""
DESCRIPTORS_MAX = 8
"""So many are looked at in a packet; the kernel closes the others."""
PAUSE_S = 1.0
"""Between two tries to accept a peer where no descriptor is free."""
ADOPTING_MAX = 512
"""Sockets between their packet and their first byte from us."""
SEND_BUFFER_BYTES = 128 * 1024
"""The kernel would hold megabytes for a client that does not read; the run's stream holds them once for all."""
REQUEST_ID_HEADER, ADDRESS_HEADER = "x-request-id", "x-client-address"
"""Headers of an adopted request that the client did not send: they come from the web process."""


class Adoption:
    """Adopts for one server. Lives in its loop."""

    def __init__(
        self,
        server: WebSocketServer,
        *,
        has_room: Callable[[], bool],
        report: Callable[[], Report],
        count: Callable[[str], None],
    ) -> None:
        """`has_room` says whether the server takes one more; `count` is called with what became of each socket."""
        self._server, self._has_room, self._report, self._count = server, has_room, report, count
        self._loop = asyncio.get_running_loop()
        self._listening: Listening | None = None
        self._peers: set[socket.socket] = set()
        self._adopting: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self, path: Path) -> None:
        """Listen. Raises OSError."""
        self._listening = Listening(path)
        self._listen()

    def stop(self) -> None:
        """Take nothing more: whoever comes is refused and serves its client itself."""
        self._stopping = True
        if self._listening is not None:
            self._loop.remove_reader(self._listening.socket)
            self._listening.close()
            self._listening = None

    async def close(self) -> None:
        """Hang up on the web processes, once what was taken has reached the server."""
        self.stop()
        if self._adopting:
            await asyncio.wait(self._adopting)
        for peer in list(self._peers):
            self._hang_up(peer)

    def _listen(self) -> None:
        if self._listening is not None:
            self._loop.add_reader(self._listening.socket, self._accept, self._listening.socket)

    def _accept(self, listening: socket.socket) -> None:
        try:
            peer, _ = listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # it stays in the queue, and would wake us at once
                self._loop.remove_reader(listening)
                self._loop.call_later(PAUSE_S, self._listen)
            return
        if len(self._peers) >= PEERS_MAX or not same_user(peer):
            log.warning("a connection to the gateway's socket was refused: another user's, or one too many")
            self._count("foreign")
            peer.close()
            return
        peer.setblocking(False)
        self._peers.add(peer)
        self._loop.add_reader(peer, self._read, peer)

    def _read(self, peer: socket.socket) -> None:
        for _ in range(PACKETS_MAX):
            try:
                packet, found, truncated = _receive(peer)
            except BlockingIOError:
                return
            except OSError:
                packet, found, truncated = b"", [], False
            if not packet:
                _close_all(found)
                self._hang_up(peer)
                return
            if not self._take(peer, packet, found, truncated):
                return

    def _take(self, peer: socket.socket, packet: bytes, found: list[int], truncated: bool) -> bool:
        """Handle a packet; False where its sender is gone or not to be listened to any more."""
        try:
            request = handover.decode_request(packet)
        except msgspec.DecodeError as error:
            return self._malformed(peer, found, str(error))
        wanted = 1 if isinstance(request, Handover) else 0
        if truncated and wanted and not found:  # the kernel had no descriptor left to give us
            return self._refuse(peer, Refused(reason="full", detail="no descriptor is free"))
        if truncated or len(found) != wanted:
            return self._malformed(peer, found, f"{len(found)} descriptors, where {wanted} belong")
        if isinstance(request, Ask):
            return self._answer(peer, self._report())
        try:
            sock = socket.socket(fileno=found[0])
        except OSError:
            return self._malformed(peer, found, "a descriptor that is no socket")
        if sock.type != socket.SOCK_STREAM:
            sock.close()
            return self._malformed(peer, [], "a socket that is no stream")
        return self._consider(peer, request, sock)

    def _consider(self, peer: socket.socket, request: Handover, sock: socket.socket) -> bool:
        refused = self._why_not()
        if refused is not None:
            sock.close()
            return self._refuse(peer, refused)
        if not self._answer(peer, Taken()):
            sock.close()
            self._count("withdrawn")
            return False
        task = self._loop.create_task(self._adopt(request, sock))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)
        return True

    def _why_not(self) -> Refused | None:
        if self._stopping:
            return Refused(reason="stopping")
        if len(self._adopting) >= ADOPTING_MAX or not self._has_room():
            return Refused(reason="full")
        return None

    async def _adopt(self, request: Handover, sock: socket.socket) -> None:
        headers = {**request.headers, REQUEST_ID_HEADER: request.request_id, ADDRESS_HEADER: request.address}
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            await self._server.adopt(sock, Request(request.target, headers), request.first_bytes)
        except Exception:
            log.exception("request %s: its WebSocket was taken and cannot be served", request.request_id)
            self._count("failed")
            sock.close()
        else:
            self._count("adopted")

    def _refuse(self, peer: socket.socket, refused: Refused) -> bool:
        self._count(refused.reason)
        return self._answer(peer, refused)

    def _malformed(self, peer: socket.socket, found: list[int], why: str) -> bool:
        log.warning("a packet at the gateway's socket was refused: %s", why)
        _close_all(found)
        if self._refuse(peer, Refused(reason="malformed", detail=why)):
            self._hang_up(peer)
        return False

    def _answer(self, peer: socket.socket, answer: Answer) -> bool:
        try:
            peer.send(handover.encode(answer))
        except OSError:  # it left, or does not read its answers
            self._hang_up(peer)
            return False
        return True

    def _hang_up(self, peer: socket.socket) -> None:
        self._peers.discard(peer)
        self._loop.remove_reader(peer)
        peer.close()


def _receive(peer: socket.socket) -> tuple[bytes, list[int], bool]:
    """A packet, the descriptors it brought, and whether something of it was cut off. Raises OSError."""
    size = array.array("i").itemsize * DESCRIPTORS_MAX
    packet, more, flags, _ = peer.recvmsg(handover.MESSAGE_BYTES_MAX, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    found = array.array("i")
    for level, kind, data in more:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return packet, list(found), bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
