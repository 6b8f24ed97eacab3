"""Run inside an own network namespace: starts the product, uploads, asks, and prints each packet that left loopback."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from awkward_documents import pdf, word
from chat_client import ChatClient
from whole_product import REAL_KNOWLEDGE_QUEUES, Reef, real_reef

ETH_P_ALL = 3
STORY = "The lighthouse keeper of Brack Island is called Ada. She lights the lamp at dusk."
QUESTION = "Who is the lighthouse keeper of Brack Island?"
UPLOADED_WITHIN_S = 60.0


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


def upload(reef: Reef) -> list[dict[str, Any]]:
    """Files for each reader there is: they are parsed, embedded and indexed; gives their documents."""
    files = {"tides.pdf": pdf([STORY]), "handbook.docx": word(), "hello.py": b"def greet():\n    return 'fish'\n"}
    with reef.client() as http:
        parts = [("file", (name, content)) for name, content in files.items()]
        upload_id = http.post("/api/v1/documents/upload", files=parts).raise_for_status().json()["upload_id"]
        deadline = time.monotonic() + UPLOADED_WITHIN_S
        while reef.get(f"/api/v1/uploads/{upload_id}")["state"] != "done":
            if time.monotonic() > deadline:
                raise TimeoutError(reef.get("/api/v1/documents"))
            time.sleep(0.1)
        documents: list[dict[str, Any]] = reef.get("/api/v1/documents")["documents"]
        return documents


def ask(reef: Reef) -> str:
    """The document that answers a question."""
    with reef.client() as http:
        found = http.post("/api/v1/documents/query", json={"query": QUESTION}).raise_for_status().json()["results"]
        return str(found[0]["name"]) if found else ""


def main(device: str, directory: Path) -> None:
    """Upload, ask and chat once with everything running."""
    seen: list[str] = []
    tapped, over = threading.Event(), threading.Event()
    listener = threading.Thread(target=listen, args=(device, seen, tapped, over))
    listener.start()
    tapped.wait(10)
    try:
        # proof that the wire is tapped: this one packet must be seen
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.sendto(b"probe", ("192.0.2.1", 9))
        queues = REAL_KNOWLEDGE_QUEUES
        with real_reef(directory, queues, flower=True) as reef, ChatClient(reef.url) as chat:
            states = {document["name"]: document["state"] for document in upload(reef)}
            answer = ask(reef)
            run = chat.finish(chat.say(QUESTION), 120)
            checks = reef.get("/readyz")["checks"]
    finally:
        over.set()
        listener.join()
    result = {"text": run.text, "types": run.types, "states": states, "answer": answer, "checks": checks}
    print(json.dumps(result | {"seen": seen}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
