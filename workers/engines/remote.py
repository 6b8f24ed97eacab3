"""An OpenAI-compatible server as a device: Ollama, llama-server, vLLM, LM Studio or a cloud service.

Token counts are the server's where it gives them (stream_options.include_usage). Where it gives none, and for
`count_tokens`, which the protocol does not have, they are an ESTIMATE: a token per BYTES_PER_TOKEN bytes of text.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from reef.ports import ChatMessage, ChatRequest, ChatResult, EngineError, EngineRefused, FinishReason, Progress
from workers.engines.text import StopStrings

BYTES_PER_TOKEN = 3.5
TOKENS_PER_MESSAGE = 4
CONNECT_TIMEOUT_S = 5.0
SILENCE_MAX_S = 120.0
"""Longest wait for the next piece: a large prompt is read in silence."""
CANCEL_POLL_S = 0.05
LINE_BYTES_MAX = 1 << 20
ERROR_CHARS_MAX = 300
_OVERFLOW = ("context_length", "context length", "context size", "too long", "maximum context")


class RemoteEngine:
    """reef.ports.ChatEngine over streaming HTTP."""

    name = "remote"

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str = "",
        context_tokens: int = 4096,
        streams: int = 8,
        silence_max_s: float = SILENCE_MAX_S,
    ) -> None:
        """`url` is the base with or without /v1; `model` may be empty: then it is the server's first."""
        base = url.rstrip("/")
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        self.model, self.context_tokens = model, context_tokens
        self._steps = self._tokens = 0
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(silence_max_s, connect=CONNECT_TIMEOUT_S),
            # a connection per generation: its socket is known from the connect on, and can be shut at any time
            limits=httpx.Limits(max_connections=streams + 1, max_keepalive_connections=0),
        )
        self._lines: set[_Line] = set()

    def load(self, progress: Progress) -> None:
        """Ask the server for its models. Raises EngineError when it does not answer or lacks the model."""
        progress(0.1, f"Asking {self._base}")
        try:
            answer = self._client.get(f"{self._base}/models")
            self._check(answer)
            names = [str(item["id"]) for item in answer.json()["data"]]
        except httpx.HTTPError as error:
            raise EngineError(f"{self._base} does not answer ({_why(error)}). Is the server running?") from error
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{self._base}/models is not an OpenAI-compatible list of models.") from error
        if not self.model and names:
            self.model = names[0]
        if self.model not in names and f"{self.model}:latest" not in names:
            raise EngineError(f"{self._base} has no model {self.model!r}; it has: {', '.join(names) or 'none'}.")
        progress(1.0, "")

    def generate(self, request: ChatRequest, on_text: Callable[[str], None], cancel: threading.Event) -> ChatResult:
        """Generate a reply; cancelling closes the connection, which ends the work over there."""
        reply, line = _Reply(request, on_text), _Line(cancel)
        self._lines.add(line)
        try:
            with (
                line,
                self._client.stream(
                    "POST",
                    f"{self._base}/chat/completions",
                    json=self._body(request),
                    extensions={"trace": line.trace},
                ) as response,
            ):
                self._check(response)
                for event in _events(response):
                    self._steps += 1
                    told = reply.pieces
                    reply.take(event)
                    self._tokens += reply.pieces - told
                    if reply.ended or line.shut:
                        break
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            if not line.shut:
                raise EngineError(f"{self._base} broke off: {_why(error)}.") from error
        finally:
            self._lines.discard(line)
        return reply.result(self.count_tokens(request.messages), cancelled=line.shut)

    def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """An estimate: the protocol has no way to ask."""
        return sum(TOKENS_PER_MESSAGE + _estimate(message.content) for message in messages)

    def tokens(self) -> int:
        """Pieces of text so far: the protocol tells no more while a reply is on its way."""
        return self._tokens

    def steps(self) -> int:
        """Events received so far."""
        return self._steps

    def close(self) -> None:
        """Generations in flight end as cancelled."""
        for line in list(self._lines):
            line.hang_up()
        self._client.close()

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "max_tokens": request.tokens_max,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.seed is not None:
            body["seed"] = request.seed
        if request.schema is not None:
            shape = {"name": "reply", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        return body

    def _check(self, response: httpx.Response) -> None:
        if response.status_code < 400:
            return
        text = response.read().decode("utf-8", "replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = json.loads(text)["error"]["message"]
        sentence = f"{self._base} answers {response.status_code}: {str(text)[:ERROR_CHARS_MAX]}"
        if response.status_code in (401, 403):
            raise EngineRefused(f"{sentence}. Set REEF_REMOTE_API_KEY.")
        if response.status_code in (400, 404, 413, 422) or any(mark in sentence.lower() for mark in _OVERFLOW):
            raise EngineRefused(sentence)
        raise EngineError(sentence)


class _Reply:
    """What a stream has brought so far."""

    def __init__(self, request: ChatRequest, on_text: Callable[[str], None]) -> None:
        self._on_text, self._stops = on_text, StopStrings(request.stop)
        self._reason: FinishReason | None = None
        self._usage: dict[str, Any] | None = None
        self._bytes = self.pieces = 0
        self.ended = False

    def take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            raise EngineError(f"The server reports: {str(event['error'])[:ERROR_CHARS_MAX]}")
        for choice in event.get("choices") or ():
            piece = (choice.get("delta") or {}).get("content") or ""
            self._bytes += len(piece.encode())
            self.pieces += bool(piece)
            if text := self._stops.feed(piece):
                self._on_text(text)
            if choice.get("finish_reason"):
                self._reason = "length" if choice["finish_reason"] == "length" else "stop"
        self._usage = event.get("usage") or self._usage
        self.ended = self._stops.hit

    def result(self, prompt_estimate: int, *, cancelled: bool) -> ChatResult:
        if self._stops.hit:
            self._reason = "stop"
        elif cancelled:
            self._reason = "cancelled"
        elif self._reason is None:
            raise EngineError("The server ended the reply without saying why.")
        elif text := self._stops.rest():
            self._on_text(text)
        usage = self._usage or {}
        details = usage.get("prompt_tokens_details") or {}
        return ChatResult(
            self._reason,
            int(usage.get("prompt_tokens") or prompt_estimate),
            int(usage.get("completion_tokens") or _estimate_bytes(self._bytes)),
            details.get("cached_tokens"),
        )


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if len(line) > LINE_BYTES_MAX:
            raise EngineError("The server sent an event longer than anything this protocol has.")
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise EngineError(f"The server sent what is no JSON: {data[:80]!r}") from error
        if isinstance(event, dict):
            yield event


class _Line:
    """The connection of one generation, shut when its `cancel` is set: while the server still reads the prompt, too."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel
        self._done = threading.Event()
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self.shut = False
        self._watcher = threading.Thread(target=self._watch, name="remote-cancel", daemon=True)

    def __enter__(self) -> None:
        self._watcher.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._watcher.join()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Learns the socket from the client's connect (httpx extension `trace`)."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
            if self.shut:
                self.hang_up()

    def hang_up(self) -> None:
        """End the connection; only shutting the socket itself wakes a reader in another thread."""
        with self._lock:
            self.shut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _watch(self) -> None:
        while not self._done.is_set():
            if self._cancel.wait(CANCEL_POLL_S):
                self.hang_up()
                return


def _estimate(text: str) -> int:
    return _estimate_bytes(len(text.encode()))


def _estimate_bytes(size: int) -> int:
    return math.ceil(size / BYTES_PER_TOKEN)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
