"""The remote engine against servers that answer badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reef.ports import ChatMessage, ChatRequest, EngineError, EngineRefused
from workers.engines.remote import RemoteEngine

REQUEST = ChatRequest([ChatMessage("user", "hello there")], 20)


def event(content: str = "", reason: str | None = None) -> bytes:
    """One server-sent event with a piece of text."""
    choice = {"delta": {"content": content}, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


class Server:
    """Answers every chat with the given status and body; counts the connections that the client shut."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.hold = threading.Event()
        self.hold.set()
        self.asked = threading.Event()
        self.key = ""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(200, b'{"object":"list","data":[{"id":"small"},{"id":"large"}]}')

            def do_POST(self) -> None:
                server.key = self.headers.get("Authorization", "")
                self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.set()
                if not server.hold.is_set():
                    self.connection.settimeout(20)
                    server.gone = self.connection.recv(1) == b""
                    server.hold.set()
                    return
                self._send(server.status, server.body)

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                return

        self.gone = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def engine(server: Server) -> Iterator[RemoteEngine]:
    client = RemoteEngine(server.url, "small", api_key="secret", silence_max_s=5)
    yield client
    client.close()


def text_of(engine: RemoteEngine) -> tuple[str, object]:
    """The reply's text and result."""
    pieces: list[str] = []
    result = engine.generate(REQUEST, pieces.append, threading.Event())
    return "".join(pieces), result


def test_server_without_usage(engine: RemoteEngine, server: Server) -> None:
    """Where the server counts nothing, tokens are estimated from the text; the key is sent."""
    server.body = event("a" * 35) + b": a comment\n\n" + event("", "stop") + b"data: [DONE]\n\n"
    text, result = text_of(engine)
    assert text == "a" * 35
    assert result.completion_tokens == 10  # type: ignore[attr-defined]
    assert result.prompt_tokens == engine.count_tokens(REQUEST.messages)  # type: ignore[attr-defined]
    assert server.key == "Bearer secret"


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (401, b'{"error":{"message":"bad key"}}', EngineRefused, "REEF_REMOTE_API_KEY"),
        (400, b'{"error":{"message":"maximum context length is 10"}}', EngineRefused, "maximum context"),
        (500, b"<html>oops</html>", EngineError, "500: <html>oops"),
        (503, b'{"error":{"message":"loading"}}', EngineError, "loading"),
        (200, b"data: {broken\n\n", EngineError, "no JSON"),
        (200, b'data: {"error":{"message":"out of memory"}}\n\n', EngineError, "out of memory"),
        (200, event("half an ans"), EngineError, "without saying why"),
        (200, b"", EngineError, "without saying why"),
    ],
)
def test_bad_answers(
    engine: RemoteEngine, server: Server, status: int, body: bytes, kind: type[EngineError], says: str
) -> None:
    """Each kind of bad answer has its sentence, and only those that can never work are refused for good."""
    server.status, server.body = status, body
    with pytest.raises(EngineError, match=says) as caught:
        text_of(engine)
    assert type(caught.value) is kind


def test_stop_in_silence_closes_the_connection(engine: RemoteEngine, server: Server) -> None:
    """While the server is still reading the prompt, a stop closes the connection, so that it ends there, too."""
    server.hold.clear()
    cancel = threading.Event()
    stopper = threading.Thread(target=lambda: (server.asked.wait(10), cancel.set()))
    stopper.start()
    result = engine.generate(REQUEST, lambda text: None, cancel)
    stopper.join()
    assert result.finish_reason == "cancelled"
    assert server.hold.wait(10)
    assert server.gone


def test_silence_ends(server: Server) -> None:
    """A server that says nothing for too long is given up with a sentence."""
    server.hold.clear()
    impatient = RemoteEngine(server.url, "small", silence_max_s=0.2)
    with pytest.raises(EngineError, match="broke off"):
        text_of(impatient)
    impatient.close()


def test_closing_ends_what_runs(engine: RemoteEngine, server: Server) -> None:
    """Closing the engine ends a generation as cancelled."""
    server.hold.clear()
    closer = threading.Thread(target=lambda: (server.asked.wait(10), engine.close()))
    closer.start()
    assert engine.generate(REQUEST, lambda text: None, threading.Event()).finish_reason == "cancelled"
    closer.join()


def test_loading_names_what_is_wrong(server: Server) -> None:
    """No server, no such model: said at loading; an empty model name takes the server's first."""
    with pytest.raises(EngineError, match="Is the server running"):
        RemoteEngine("http://127.0.0.1:9", "x").load(lambda share, note: None)
    with pytest.raises(EngineError, match="it has: small, large"):
        RemoteEngine(server.url, "huge").load(lambda share, note: None)
    first = RemoteEngine(f"{server.url}/v1/", "")
    first.load(lambda share, note: None)
    assert first.model == "small"
    first.close()
