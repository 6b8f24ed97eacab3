"""Run inside an own network namespace: starts the product, chats, and prints every packet that left the loopback."""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path

from chat_client import ChatClient
from whole_product import real_reef

ETH_P_ALL = 3


def describe(packet: bytes) -> str:
    """Protocol, address and the readable part of an IPv4 packet: a name that was looked up, a host that was greeted."""
    readable = "".join(chr(byte) if 32 < byte < 127 else "." for byte in packet[28:120])
    return f"protocol {packet[9]} to {socket.inet_ntoa(packet[16:20])}: {readable}"


def listen(device: str, seen: list[str], tapped: threading.Event, over: threading.Event) -> None:
    """Note what is sent on the only other interface there is."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as wire:
        wire.bind((device, ETH_P_ALL))
        wire.settimeout(0.2)
        tapped.set()
        while not over.is_set():
            try:
                packet = wire.recv(65535)
            except TimeoutError:
                continue
            if packet[0] >> 4 == 4:
                seen.append(describe(packet))


def main(device: str, directory: Path) -> None:
    """Chat once with everything running."""
    seen: list[str] = []
    tapped, over = threading.Event(), threading.Event()
    listener = threading.Thread(target=listen, args=(device, seen, tapped, over))
    listener.start()
    tapped.wait(10)
    try:
        # proof that the wire is tapped: this one packet must be seen
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.sendto(b"probe", ("192.0.2.1", 9))
        with real_reef(directory, flower=True) as reef, ChatClient(reef.url) as chat:
            run = chat.finish(chat.say("Hello!"), 120)
            reef.get("/api/v1/system/status")
    finally:
        over.set()
        listener.join()
    print(json.dumps({"text": run.text, "seen": seen}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
