"""The OpenVINO engine: continuous batching in this process, all streams of a device in one batch.

One thread owns the pipeline and makes every call of it. `step()` keeps the interpreter lock while it computes, so the
thread hands the lock over after each step: callers turn their new tokens into text then, and a stop gets through.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from reef.models import ModelFile
from reef.ports import ChatMessage, ChatRequest, ChatResult, EngineError, EngineRefused, FinishReason, Progress
from workers.engines.openvino_cache import Manifest, UnreadableModelError, discard, prepared
from workers.engines.openvino_parts import make_pipeline, plain_import
from workers.engines.text import StopStrings, Utf8Stream
from workers.watchdog import Watchdog

log = logging.getLogger(__name__)

BLOCK_TOKENS = 32
KV_BYTES_MAX = 1 << 30
"""Memory for keys and values, prefix cache included; one full context is granted even where it needs more."""
HANDOVER_S = 0.002
"""Longest pause after a step in which callers take their tokens."""
FIRST_TOKEN_PAUSE_S = 0.001
"""Pause after a reply's first token, so that it leaves the process before the next step computes."""
WARM_HANG_S = 600.0
"""The first step repacks the weights: a large model takes minutes for it on a busy machine, and does not hang."""
ARRIVAL_PAUSE_S = 0.008
"""Pause after a step while conversations come in one after another: what brings them needs the interpreter lock."""
ARRIVING_S = 0.15
"""One that came in makes another likely for this long."""
RESTARTS_MAX = 3
"""Failed steps in a row after which the engine gives up."""
IDLE_WAIT_S = 0.5

_End = Literal["stop", "length", "cancelled"]


class _Stream:
    """One generation on its way. `tokens` carries lists of ids, then one end or one error."""

    def __init__(self, request: ChatRequest, ids: Any, config: Any, cancel: threading.Event) -> None:
        self.request, self.ids, self.config, self.cancel = request, ids, config, cancel
        self.tokens: queue.SimpleQueue[list[int] | _End | EngineError] = queue.SimpleQueue()
        self.handle: Any = None
        self.began = False


class OpenVinoEngine:
    """reef.ports.ChatEngine over openvino_genai.ContinuousBatchingPipeline."""

    name = "openvino"

    def __init__(
        self,
        model: ModelFile,
        *,
        streams: int,
        context_tokens: int,
        hang_s: float,
        trace_file: Path,
        threads: int | None = None,
        on_dead: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`on_dead` is called once, from the engine's thread, when it cannot go on."""
        self.model, self.context_tokens = model.name, context_tokens
        self._file, self._streams, self._on_dead = model, streams, on_dead
        self._threads = threads or len(os.sched_getaffinity(0))
        self._chunk_tokens = _chunk_tokens(model.size_bytes)
        self._watchdog = Watchdog(hang_s, trace_file)
        self._waiting: queue.SimpleQueue[_Stream] = queue.SimpleQueue()
        self._taken: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._live: list[_Stream] = []
        self._wake, self._closing = threading.Event(), threading.Event()
        self._admission = threading.Lock()
        self._request_ids = itertools.count()
        self._steps = 0
        self._failed_steps = 0
        self._arriving_until = 0.0
        self._dead = "the engine is not loaded"
        self._thread: threading.Thread | None = None

    def load(self, progress: Progress) -> None:
        """Load and warm the model, preparing it once per machine. Raises EngineError with what to do next."""
        folder, manifest = prepared(self._file, self._threads, lambda share, note: progress(share * 0.8, note))
        progress(0.85, f"Loading {self.model}")
        try:
            self._open(folder, manifest)
        except Exception as error:  # noqa: BLE001 - the library raises RuntimeError and friends for a broken file
            log.warning("what was prepared for %s does not load (%s); preparing it again", self.model, error)
            discard(folder)
            folder, manifest = prepared(self._file, self._threads, progress)
            try:
                self._open(folder, manifest)
            except Exception as again:
                raise UnreadableModelError(f"OpenVINO cannot load {self.model}: {again}") from again
        self._dead = ""
        self._thread = threading.Thread(target=self._run, name="openvino", daemon=True)
        self._thread.start()
        progress(0.95, f"Warming {self.model}")
        hang_s, self._watchdog.timeout_s = self._watchdog.timeout_s, max(self._watchdog.timeout_s, WARM_HANG_S)
        self.generate(ChatRequest([ChatMessage("user", "Hi")], tokens_max=2), lambda text: None, threading.Event())
        self._watchdog.timeout_s = hang_s
        progress(1.0, "")

    def generate(self, request: ChatRequest, on_text: Callable[[str], None], cancel: threading.Event) -> ChatResult:
        """Generate a reply (see reef.ports.ChatEngine)."""
        if self._dead:
            raise EngineError(f"The engine has stopped: {self._dead}.")
        ids = self._encode(request.messages)
        prompt_tokens = int(ids.shape[1])
        room = self.context_tokens - prompt_tokens
        if room < 1:
            raise EngineRefused(
                f"The conversation has {prompt_tokens} tokens; {self.model} takes {self.context_tokens} here. "
                "Start a new session or raise context_tokens in queues.yaml."
            )
        stream = _Stream(request, ids, self._config(request, min(room, request.tokens_max)), cancel)
        with self._admission:
            if self._dead:
                raise EngineError(f"The engine has stopped: {self._dead}.")
            self._waiting.put(stream)
        self._wake.set()
        reason, tokens = self._follow(stream, on_text)
        return ChatResult(reason, prompt_tokens, tokens)

    def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """Length of these messages under the model's chat template."""
        return int(self._encode(messages).shape[1])

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        """These messages as the model reads them."""
        return [int(token) for token in self._encode(messages).data[0]]

    def steps(self) -> int:
        """Steps of the pipeline so far."""
        return self._steps

    def close(self) -> None:
        """Free the device. Generations in flight end as cancelled."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._die("it was closed", lambda stream: stream.tokens.put("cancelled"))
        self._pipeline = self._tokenizer = None
        self._watchdog.close()

    # callers' threads

    def _encode(self, messages: Sequence[ChatMessage]) -> Any:
        if self._tokenizer is None:
            raise EngineError("The engine was closed.")
        history = [{"role": message.role, "content": message.content} for message in messages]
        try:
            prompt = self._tokenizer.apply_chat_template(history, add_generation_prompt=True)
        except RuntimeError as error:
            raise EngineRefused(f"{self.model}'s chat template refuses these messages: {error}") from error
        return self._tokenizer.encode(prompt, add_special_tokens=False).input_ids

    def _config(self, request: ChatRequest, tokens_max: int) -> Any:
        config = self._genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = tokens_max
        config.set_eos_token_id(self._end_ids[0])
        config.stop_token_ids = set(self._end_ids)
        if request.temperature > 0:
            config.do_sample = True
            config.temperature, config.top_p = request.temperature, request.top_p
            config.repetition_penalty = request.repetition_penalty
            config.rng_seed = secrets.randbits(31) if request.seed is None else request.seed % (1 << 31)
        if request.schema is not None:
            config.structured_output_config = self._genai.StructuredOutputConfig(json_schema=json.dumps(request.schema))
        return config

    def _follow(self, stream: _Stream, on_text: Callable[[str], None]) -> tuple[FinishReason, int]:
        """Turn tokens into text as they come, until the end."""
        characters, stops = Utf8Stream(), StopStrings(stream.request.stop)
        pieces, count = self._pieces, 0
        try:
            while isinstance(item := stream.tokens.get(), list):
                count += len(item)
                text = stops.feed(characters.feed(b"".join([pieces[token] for token in item])))
                if text:
                    on_text(text)
                if stops.hit:
                    return "stop", count
                self._taken.put(self._steps)
        finally:
            stream.cancel = _SET  # a stop string was found, or on_text raised: nobody reads on
        if isinstance(item, EngineError):
            raise item
        if item != "cancelled" and (text := stops.rest()):
            on_text(text)
        return item, count

    # the engine's thread

    def _open(self, folder: Path, manifest: Manifest) -> None:
        self._genai = plain_import()
        self._pieces = msgspec.msgpack.decode((folder / "vocabulary.msgpack").read_bytes(), type=list[bytes])
        self._end_ids = manifest.end_ids
        if manifest.context_tokens:
            self.context_tokens = min(self.context_tokens, manifest.context_tokens)
        self._pipeline = make_pipeline(
            folder,
            self._threads,
            _kv_blocks(self.context_tokens, self._streams, manifest.kv_bytes_per_token),
            streams=self._streams,
            chunk_tokens=self._chunk_tokens,
            blob=manifest.blob,
        )
        self._tokenizer = self._pipeline.get_tokenizer()
        self._prepared = (folder, manifest)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                if self._waiting.empty() and not self._live:
                    self._wake.wait(IDLE_WAIT_S)
                    self._wake.clear()
                    continue
                with self._watchdog.guard() as renew:
                    self._work(renew)
        except BaseException as error:  # whatever it was, callers must not wait for ever
            log.exception("the engine's thread ended")
            reason = str(error) or type(error).__name__
            self._die(reason, lambda stream: stream.tokens.put(EngineError(f"The engine failed: {reason}")))
            self._on_dead(reason)

    def _work(self, renew: Callable[[], None]) -> None:
        """Step until nothing is left to do."""
        while not self._closing.is_set():
            self._admit()
            self._cancel()
            if not self._pipeline.has_non_finished_requests():
                return
            try:
                self._pipeline.step()
            except RuntimeError as error:
                self._recover(error)
                return
            self._steps += 1
            self._failed_steps = 0
            renew()
            self._deliver()

    def _admit(self) -> None:
        while not self._waiting.empty():
            stream = self._waiting.get()
            if stream.cancel.is_set():
                stream.tokens.put("cancelled")
                continue
            try:
                stream.handle = self._pipeline.add_request(next(self._request_ids), stream.ids, stream.config)
            except (RuntimeError, ValueError) as error:
                stream.tokens.put(EngineRefused(f"{self.model} refuses this request: {error}"))
                continue
            self._live.append(stream)
            self._arriving_until = time.monotonic() + ARRIVING_S

    def _cancel(self) -> None:
        for stream in [stream for stream in self._live if stream.cancel.is_set()]:
            stream.handle.cancel()
            self._live.remove(stream)
            stream.tokens.put("cancelled")

    def _deliver(self) -> None:
        fed, first, ended = 0, False, []
        running = self._genai.GenerationStatus.RUNNING
        for stream in self._live:
            handle = stream.handle
            if handle.can_read():
                output = next(iter(handle.read().values()))
                if output.generated_ids:
                    fed += 1
                    first = first or not stream.began
                    stream.began = True
                    stream.tokens.put(output.generated_ids)
                if output.finish_reason != self._genai.GenerationFinishReason.NONE:
                    ended.append((stream, output.finish_reason))
                    continue
            if handle.get_status() != running:
                ended.append((stream, None))
        for stream, reason in ended:
            self._live.remove(stream)
            stream.tokens.put(self._end(stream, reason))
        self._hand_over(fed, first)

    def _end(self, stream: _Stream, reason: Any) -> _End | EngineError:
        if reason is not None:
            return "length" if reason == self._genai.GenerationFinishReason.LENGTH else "stop"
        if stream.handle.get_status() == self._genai.GenerationStatus.IGNORED:
            return EngineError(f"{self.model} had no memory left for this conversation.")
        return "stop"

    def _hand_over(self, fed: int, first: bool) -> None:
        """Let the callers run: within a step they cannot."""
        until = time.perf_counter() + HANDOVER_S
        while fed and (left := until - time.perf_counter()) > 0:
            try:
                if self._taken.get(timeout=left) == self._steps:
                    fed -= 1
            except queue.Empty:
                break
        if first:
            time.sleep(FIRST_TOKEN_PAUSE_S)
        if self._arriving_until > time.monotonic() and len(self._live) < self._streams:
            time.sleep(ARRIVAL_PAUSE_S)

    def _recover(self, error: RuntimeError) -> None:
        """A step that raised leaves the pipeline unusable: end what runs and build it anew."""
        log.error("a step of the engine failed: %s", error)
        suspects = [stream for stream in self._live if stream.request.schema is not None and not stream.began]
        for stream in self._live:
            if stream in suspects:
                stream.tokens.put(EngineRefused(f"{self.model} cannot follow this schema: {error}"))
            else:
                stream.tokens.put(EngineError(f"The engine failed and was started anew: {error}"))
        self._live.clear()
        self._failed_steps += 1
        if self._failed_steps >= RESTARTS_MAX:
            raise error
        self._pipeline = None
        self._open(*self._prepared)

    def _die(self, reason: str, tell: Callable[[_Stream], None]) -> None:
        with self._admission:
            self._dead = reason
            while not self._waiting.empty():
                self._live.append(self._waiting.get())
        for stream in self._live:
            tell(stream)
        self._live.clear()

    _pipeline: Any = None
    _tokenizer: Any = None


_SET = threading.Event()
_SET.set()


def _chunk_tokens(size_bytes: int) -> int:
    """Prompt tokens per step: nothing is heard or stopped meanwhile, so a large model takes fewer at a time."""
    if size_bytes < 250_000_000:
        return 256
    return 128 if size_bytes < 700_000_000 else 64


def _kv_blocks(context_tokens: int, streams: int, bytes_per_token: int) -> int:
    per_context = -(-context_tokens // BLOCK_TOKENS) + 1
    affordable = KV_BYTES_MAX // max(1, bytes_per_token * BLOCK_TOKENS)
    return max(per_context, min(per_context * streams, affordable))
