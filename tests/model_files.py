"""Small model files, and a web server with bad manners that serves them."""

from __future__ import annotations

import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_KINDS = {int: (4, "<I"), float: (6, "<f"), bool: (7, "<?")}


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(item) for item in value)
        return struct.pack("<IIQ", 9, 5, len(value)) + b"".join(struct.pack("<i", item) for item in value)
    kind, layout = _KINDS[type(value)]
    return struct.pack("<I", kind) + struct.pack(layout, value)


def gguf_bytes(metadata: dict[str, Any] | None = None, *, version: int = 3, elements: int = 64) -> bytes:
    """A whole, tiny .gguf file with one F32 tensor."""
    metadata = {"general.architecture": "llama", "llama.context_length": 2048} | (metadata or {})
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(metadata))
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    head += _text("weight") + struct.pack("<IQIQ", 1, elements, 0, 0)
    return head + b"\0" * (-len(head) % 32) + b"\1" * (4 * elements)


class BadServer:
    """Serves one body; what it does wrong can be set between requests."""

    def __init__(self) -> None:
        self.body = b""
        self.etag: str | None = '"one"'
        self.last_modified: str | None = None
        self.cut_after: list[int] = []
        """For each of the next answers: break the connection after that many bytes of its body."""
        self.ignore_range = False
        self.status: list[int] = []
        """Statuses of the next answers, before good ones come."""
        self.headers: dict[str, str] = {}
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/tiny.gguf"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        if self.status:
            handler.send_response(self.status.pop(0))
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = 0
        if wanted and not self.ignore_range and handler.headers.get("If-Range") in (self.etag, self.last_modified):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = self.body[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.last_modified:
            handler.send_header("Last-Modified", self.last_modified)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cut_after.pop(0)] if self.cut_after else body)
        handler.close_connection = True

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
