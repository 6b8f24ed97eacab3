"""llama.cpp's server inside this process (xllamacpp): every .gguf file, every CPU.

Its HTTP port on loopback cannot be switched off; it gets an API key that nobody else knows.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reef.models import ModelError, ModelFile
from reef.models.adapters import split_name
from reef.ports import ChatMessage, ChatRequest, ChatResult, EngineError, EngineRefused, FinishReason, Progress
from workers.engines.text import StopStrings
from workers.watchdog import Watchdog

BATCH_TOKENS = 64
"""Prompt tokens computed at a time: a stop is heard in between. 256 were no faster."""
PROMPT_CACHE_MIB = 512
WARM_HANG_S = 600.0
"""The first request reads a large model from the disk; that is no hang."""
TOKENIZE_TIMEOUT_S = 10.0


def environment() -> dict[str, str]:
    """What must be in the environment before the process starts: libgomp reads it when it is loaded.

    Without a limit its threads spin while they wait, and beside one busy process that costs a factor of fifty.
    """
    return {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "passive"}


class LlamaEngine:
    """reef.ports.ChatEngine over xllamacpp.Server."""

    name = "llama"

    def __init__(
        self,
        model: ModelFile,
        *,
        streams: int,
        context_tokens: int,
        hang_s: float,
        trace_file: Path,
        threads: int | None = None,
    ) -> None:
        self.model, self.context_tokens = model.name, context_tokens
        self._file, self._streams = model, streams
        self._threads = threads or len(os.sched_getaffinity(0))
        self._watchdog = Watchdog(hang_s, trace_file)
        self.api_key = secrets.token_urlsafe(24)
        self._steps = self._tokens = 0
        self._closing = threading.Event()
        self._server: Any = None

    def load(self, progress: Progress) -> None:
        """Load and warm the model. Raises EngineError with what to do next."""
        progress(0.1, f"Loading {self.model}")
        try:
            import xllamacpp
        except ImportError as error:
            raise EngineError("xllamacpp is not installed: `pip install -r requirements.txt`.") from error
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(self._file.path)
        parameters.n_parallel = self._streams
        parameters.n_ctx = self._streams * self.context_tokens  # shared by the streams
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.cache_ram_mib = PROMPT_CACHE_MIB
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = self._threads
        parameters.api_keys = [self.api_key]
        parameters.ui, parameters.verbosity = False, 0
        parameters.lora_adapters = [
            xllamacpp.CommonAdapterLoraInfo(str(adapter.path), adapter.scale) for adapter in self._file.adapters
        ]
        try:
            self._server = xllamacpp.Server(parameters)
        except Exception as error:
            names = [self._file.path.name, *(adapter.path.name for adapter in self._file.adapters)]
            raise EngineError(f"llama.cpp cannot load {' with '.join(names)}: {error}") from error
        progress(0.8, f"Warming {self.model}")
        # also needed for closing: a server that is deleted before its first request hangs
        hang_s, self._watchdog.timeout_s = self._watchdog.timeout_s, max(self._watchdog.timeout_s, WARM_HANG_S)
        self.generate(ChatRequest([ChatMessage("user", "Hi")], tokens_max=2), lambda text: None, threading.Event())
        self._watchdog.timeout_s = hang_s
        progress(1.0, "")

    def generate(self, request: ChatRequest, on_text: Callable[[str], None], cancel: threading.Event) -> ChatResult:
        """Generate a reply (see reef.ports.ChatEngine)."""
        if self._server is None:
            raise EngineError("The engine is not loaded.")
        reply = _Reply(request, on_text, lambda: cancel.is_set() or self._closing.is_set())
        with self._watchdog.guard() as renew:

            def heard(chunk: Mapping[str, Any]) -> bool:
                self._steps += 1
                renew()
                told = reply.pieces
                over = reply.take(chunk)
                self._tokens += reply.pieces - told  # one lost between two threads is no matter: a rate is told from it
                return over

            try:
                self._server.handle_chat_completions(self._body(request), heard)
            except ValueError as error:  # a schema or a template it cannot follow
                raise EngineRefused(f"llama.cpp refuses this request: {error}") from error
            except RuntimeError as error:
                raise EngineError(f"llama.cpp failed: {error}") from error
        return reply.result(self)

    def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """Length of these messages under the model's chat template."""
        return len(self.prompt_ids(messages))

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        """These messages as the model reads them."""
        prompt = self._ask("/apply-template", {"messages": _plain(messages)})["prompt"]
        answer = self._ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
        return [int(token) for token in answer["tokens"]]

    def tokens(self) -> int:
        """Tokens of all replies so far."""
        return self._tokens

    @property
    def address(self) -> str:
        """Base URL of the server inside this process; it asks for `api_key`."""
        return str(self._server.listening_address)

    def steps(self) -> int:
        """Answers of the server so far: tokens and prompt chunks."""
        return self._steps

    def close(self) -> None:
        """Free the device. Generations in flight end as cancelled."""
        self._closing.set()
        self._server = None
        self._watchdog.close()

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": _plain(request.messages),
            "max_tokens": request.tokens_max,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "repeat_penalty": request.repetition_penalty,
            "stop": list(request.stop),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
            "cache_prompt": True,
        }
        if self._file.adapters:
            body["lora"] = [
                {"id": place, "scale": scale} for place, scale in enumerate(scales(self._file, request.model))
            ]
        if request.seed is not None:
            body["seed"] = request.seed
        if request.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": dict(request.schema)}}
        return body

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._server is None:
            raise EngineError("The engine is not loaded.")
        address = urlsplit(self._server.listening_address)
        connection = http.client.HTTPConnection(
            address.hostname or "127.0.0.1", address.port, timeout=TOKENIZE_TIMEOUT_S
        )
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"}
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            data = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise EngineError(f"llama.cpp does not count tokens: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400 or not isinstance(data, dict):
            raise EngineRefused(f"llama.cpp refuses to count these messages: {str(data)[:300]}")
        return data


def scales(loaded: ModelFile, wanted: str) -> list[float]:
    """How strongly each loaded adapter applies to a request that wants this model.

    A model is loaded once for all who want it with or without its adapters: who names the bare model gets it bare.
    """
    own = [adapter.scale for adapter in loaded.adapters]
    try:
        base, adapters = split_name(wanted)
    except ModelError:
        return own
    chosen = dict(adapters)
    if base != split_name(loaded.name)[0] or not set(chosen) <= {adapter.name for adapter in loaded.adapters}:
        return own
    return [chosen.get(adapter.name, 0.0) for adapter in loaded.adapters]


class _Reply:
    """What the server has said about one generation."""

    def __init__(self, request: ChatRequest, on_text: Callable[[str], None], cancelled: Callable[[], bool]) -> None:
        self._on_text, self._cancelled = on_text, cancelled
        self._stops = StopStrings(request.stop)
        self._reason: FinishReason | None = None
        self._usage: Mapping[str, Any] = {}
        self.pieces = self._prompt = 0
        self._failure: Exception | None = None

    def take(self, chunk: Mapping[str, Any]) -> bool:
        """Called in the caller's thread; True frees the slot at once. Nothing may be raised through the server."""
        try:
            self._take(chunk)
        except Exception as error:  # noqa: BLE001 - on_text's; raised again in `result`
            self._failure = self._failure or error
        return self._failure is not None or self._cancelled()

    def _take(self, chunk: Mapping[str, Any]) -> None:
        if "choices" not in chunk and "prompt_progress" not in chunk:
            raise _refusal(chunk)
        self._prompt = int((chunk.get("prompt_progress") or {}).get("total") or self._prompt)
        for choice in chunk.get("choices") or ():
            if piece := (choice.get("delta") or {}).get("content"):
                self.pieces += 1
                if text := self._stops.feed(piece):
                    self._on_text(text)
            if reason := choice.get("finish_reason"):
                self._reason = "length" if reason == "length" else "stop"
        self._usage = chunk.get("usage") or self._usage

    def result(self, engine: LlamaEngine) -> ChatResult:
        if self._failure is not None:
            raise self._failure
        if self._reason is None or self._cancelled():
            self._reason = "cancelled"
        elif text := self._stops.rest():
            self._on_text(text)
        details = self._usage.get("prompt_tokens_details") or {}
        return ChatResult(
            self._reason,
            int(self._usage.get("prompt_tokens", self._prompt)),
            int(self._usage.get("completion_tokens", self.pieces)),
            details.get("cached_tokens"),
        )


def _refusal(chunk: Mapping[str, Any]) -> EngineError:
    error = chunk.get("error", chunk)
    message = str(error.get("message", error)) if isinstance(error, Mapping) else str(error)
    code = error.get("code") if isinstance(error, Mapping) else None
    kind = EngineRefused if code in (400, 413) or "context" in message else EngineError
    return kind(f"llama.cpp answers: {message[:300]}")


def _plain(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
