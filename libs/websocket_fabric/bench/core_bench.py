"""The core alone, without sockets: what reading messages and framing the same answers costs, beside `websockets`.

    python bench/core_bench.py

Each row is the best of several rounds, in which the contestants take turns: other work on the machine meets both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as PeerProtocol
from websockets.protocol import Side

from websocket_fabric.deflate import Agreement, Deflate
from websocket_fabric.limits import Limits
from websocket_fabric.protocol import Protocol

ROUNDS = 7
ROUND_S = 0.05
MIB = 1024 * 1024
LIMITS = Limits(message_bytes_max=64 * MIB)
TEXT = '{"type":"token","run":"0197f2c4","n":%d,"text":" reef"}, '


def agreed(*, takeover: bool) -> Agreement:
    """Deflate as by default, with or without its memory of earlier messages."""
    return Agreement(Deflate(message_bytes_min=0), "", 12, takeover, 12, takeover)


class Ours:
    """Echo through websocket_fabric."""

    name = "websocket_fabric"

    def __init__(self, deflate: Agreement | None) -> None:
        self.protocol = Protocol("server", LIMITS, deflate=deflate)

    def echo(self, reads: Iterable[bytes]) -> int:
        """Answers each message with itself; gives how many there were."""
        protocol, count = self.protocol, 0
        for read in reads:
            answers = [protocol.message(data) for data in protocol.feed(read)]
            b"".join(answers)
            count += len(answers)
        return count


class Peer:
    """Echo through the sans-I/O part of `websockets`, which leaves putting fragments together and text to its user."""

    name = "websockets"

    def __init__(self) -> None:
        self.protocol = PeerProtocol(Side.SERVER, max_size=LIMITS.message_bytes_max)
        self.parts: list[bytes] = []
        self.text = False

    def echo(self, reads: Iterable[bytes]) -> int:
        """Answers each message with itself; gives how many there were."""
        protocol, count = self.protocol, 0
        for read in reads:
            protocol.receive_data(read)
            for event in protocol.events_received():
                assert isinstance(event, Frame)
                self.text = event.opcode is Opcode.TEXT or (self.text and event.opcode is Opcode.CONT)
                self.parts.append(bytes(event.data))
                if not event.fin:
                    continue
                whole = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
                self.parts.clear()
                count += 1
                if self.text:
                    protocol.send_text(whole.decode().encode())
                else:
                    protocol.send_binary(whole)
            b"".join(protocol.data_to_send())
        return count


def words(size: int) -> str:
    """Text of this many bytes, as our messages are."""
    return "".join(TEXT % n for n in range(size // 50 + 1))[:size]


def fragments(count: int, payload: bytes) -> bytes:
    """One binary message in this many fragments, as a client sends them."""
    client = Protocol("client", LIMITS)
    whole = [bytearray(client.message(payload)) for _ in range(count)]
    for at, frame in enumerate(whole):
        frame[0] = (0x80 if at == count - 1 else 0) | (0 if at else 2)
    return b"".join(whole)


def pieces(stream: bytes, size: int) -> list[bytes]:
    """The stream as reads of this size bring it."""
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def cases() -> dict[str, tuple[list[bytes], Agreement | None]]:
    """What is read, by name, and what was agreed on."""
    client = Protocol("client", LIMITS)
    alone, together = agreed(takeover=False), agreed(takeover=True)
    packing, remembering = (Protocol("client", LIMITS, deflate=one) for one in (alone, together))
    small = b"".join(client.message(words(64)) for _ in range(256))
    return {
        "64 B text, one a read": ([client.message(words(64))], None),
        "64 B text, 256 a read": ([small], None),
        "64 B text, 256 in reads of 1,448 B": (pieces(small, 1448), None),
        "300 B text, 256 a read": ([b"".join(client.message(words(300)) for _ in range(256))], None),
        "4 KB binary, 32 a read": ([b"".join(client.message(bytes(4096)) for _ in range(32))], None),
        "1 MB binary in reads of 64 KB": (pieces(client.message(bytes(MIB)), 64 * 1024), None),
        "1 MB text in reads of 64 KB": (pieces(client.message(words(MIB)), 64 * 1024), None),
        "1 MB binary in reads of 1,448 B": (pieces(client.message(bytes(MIB)), 1448), None),
        "16 MB binary in reads of 64 KB": (pieces(client.message(bytes(16 * MIB)), 64 * 1024), None),
        "64 KB binary in 1,024 fragments": ([fragments(1024, bytes(64))], None),
        "300 B text, deflate, no takeover": ([packing.message(words(300))], alone),
        "300 B text, deflate, takeover": ([remembering.message(words(300))], together),
        "64 KB text, deflate, no takeover": ([packing.message(words(64 * 1024))], alone),
    }


def measure(contestants: list[Callable[[], int]]) -> list[float]:
    """Seconds a message of each, the best of the rounds."""
    best = [float("inf")] * len(contestants)
    for _ in range(ROUNDS):
        for at, contestant in enumerate(contestants):
            count, begun = 0, time.perf_counter()
            while (took_s := time.perf_counter() - begun) < ROUND_S:
                count += contestant()
            best[at] = min(best[at], took_s / count)
    return best


def main() -> None:
    """Print the table."""
    print(f"{'echo, microseconds a message':38} {Ours.name:>18} {Peer.name:>12} {'ratio':>7}")
    for name, (reads, deflate) in cases().items():
        contestants: list[Callable[[], int]] = [partial(Ours(deflate).echo, reads)]
        if deflate is None:
            contestants.append(partial(Peer().echo, reads))
        best = measure(contestants)
        beside = f"{best[1] * 1e6:12.2f} {best[1] / best[0]:6.1f}x" if len(best) > 1 else f"{'-':>12} {'-':>7}"
        print(f"{name:38} {best[0] * 1e6:18.2f} {beside}", flush=True)


if __name__ == "__main__":
    main()
