"""The OpenVINO engine: continuous batching, all streams of a device in one batch, in a device process of its own.

What lives here is the worker's side: it starts the device process (openvino_device.py), passes generations on and
turns the tokens that come back into text. Nothing of OpenVINO is imported: a step of its pipeline holds the interpreter
lock, and a worker that claims and tells meanwhile would have to wait for it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from reef.models import ModelFile
from reef.ports import ChatMessage, ChatRequest, ChatResult, EngineError, EngineRefused, FinishReason, Progress
from workers.engines.openvino_cache import Manifest, UnreadableModelError, discard, prepared
from workers.engines.openvino_wire import (
    FIRST_HANG_S,
    Answer,
    Cancel,
    Dying,
    Encode,
    Encoded,
    End,
    Generate,
    Open,
    Opened,
    Request,
    Step,
    Wire,
)
from workers.engines.text import StopStrings, Utf8Stream

log = logging.getLogger(__name__)

CODE = Path(__file__).resolve().parents[2]
BLOCK_TOKENS = 32
KV_BYTES_MAX = 1 << 30
"""Memory for keys and values, prefix cache included; one full context is granted even where it needs more."""
ENCODE_WAIT_S = 30.0
"""The device answers between two steps."""
LISTEN_S = 1.0
SILENCE_FACTOR = 1.5
"""Of the time one step may take. The device's watchdog comes first, and leaves its stacks."""
CLOSE_WAIT_S = 5.0
"""A device process that has not gone by then is killed."""


class _Stream:
    """One generation on its way. `tokens` carries lists of ids, then one end."""

    def __init__(self, cancel: threading.Event) -> None:
        self.cancel = cancel
        self.cancelled = False
        self.tokens: queue.SimpleQueue[Sequence[int] | End] = queue.SimpleQueue()


class OpenVinoEngine:
    """reef.ports.ChatEngine over a device process."""

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
        """`on_dead` is called once, from the engine's thread, when the device process is gone that has served.

        One that ends while it is loaded or warmed makes `load` fail and nothing else: another engine may serve beside.
        """
        self.model, self.context_tokens = model.name, context_tokens
        self._file, self._slots, self._on_dead = model, streams, on_dead
        self._threads = threads or len(os.sched_getaffinity(0))
        self._hang_s, self._trace_file = hang_s, trace_file
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._asked: dict[int, queue.SimpleQueue[Encoded]] = {}
        self._opened: queue.SimpleQueue[Opened] = queue.SimpleQueue()
        self._pieces: list[bytes] = []
        self._steps = self._tokens = 0
        self._warm = False
        self._heard_at = 0.0
        self._dead = "it is not loaded"
        self._closing = False
        self._wire: Wire[Answer] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def load(self, progress: Progress) -> None:
        """Load and warm the model, preparing it once per machine. Raises EngineError with what to do next."""
        self._start()  # it imports its libraries while we look whether everything is prepared
        folder, manifest = prepared(self._file, self._threads, lambda share, note: progress(share * 0.8, note))
        progress(0.85, f"Loading {self.model}")
        if error := self._open(folder, manifest):
            log.warning("what was prepared for %s does not load (%s); preparing it again", self.model, error)
            discard(folder)
            folder, manifest = prepared(self._file, self._threads, progress)
            if error := self._open(folder, manifest):
                raise UnreadableModelError(f"OpenVINO cannot load {self.model}: {error}")
        with self._lock:
            self._dead = ""
        progress(0.95, f"Warming {self.model}")
        self.generate(ChatRequest([ChatMessage("user", "Hi")], tokens_max=2), lambda text: None, threading.Event())
        self._warm = True
        progress(1.0, "")

    def generate(self, request: ChatRequest, on_text: Callable[[str], None], cancel: threading.Event) -> ChatResult:
        """Generate a reply (see reef.ports.ChatEngine)."""
        number, stream = next(self._ids), _Stream(cancel)
        # to the device the stop is a message of its own, before which it would go on for some steps
        stopped = cancel.is_set()
        with self._lock:
            self._check()
            if not self._streams:
                self._heard_at = time.monotonic()  # nothing was to be heard before
            self._streams[number] = stream
        self._send(
            Generate(
                number,
                request.messages,
                self.context_tokens,
                1 if stopped else request.tokens_max,
                request.temperature,
                request.top_p,
                request.repetition_penalty,
                request.seed,
                request.schema,
            )
        )
        reason, prompt_tokens, tokens = self._follow(stream, request.stop, on_text)
        return ChatResult("cancelled" if stopped else reason, prompt_tokens, tokens)

    def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """Length of these messages under the model's chat template."""
        return len(self.prompt_ids(messages))

    def tokens(self) -> int:
        """Tokens of all replies so far."""
        return self._tokens

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> Sequence[int]:
        """These messages as the model reads them."""
        number, answer = next(self._ids), queue.SimpleQueue[Encoded]()
        with self._lock:
            self._check()
            self._asked[number] = answer
        try:
            self._send(Encode(number, messages))
            encoded = answer.get(timeout=ENCODE_WAIT_S)
        except queue.Empty:
            raise EngineError("The device did not say how long the conversation is.") from None
        finally:
            with self._lock:
                self._asked.pop(number, None)
        if encoded.error:
            raise EngineRefused(encoded.error)
        return encoded.ids

    def steps(self) -> int:
        """Steps of the pipeline so far."""
        return self._steps

    def close(self) -> None:
        """Free the device. Generations in flight end as cancelled."""
        self._closing = True
        if self._wire is not None:
            with contextlib.suppress(OSError):
                self._wire.sock.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()

    # callers' threads

    def _check(self) -> None:
        if self._dead:
            raise EngineError(f"The engine has stopped: {self._dead}.")

    def _send(self, request: Request) -> None:
        assert self._wire is not None  # noqa: S101 - _check was asked before
        with contextlib.suppress(OSError), self._sending:  # that the device is gone is told by the engine's thread
            self._wire.send(request)

    def _follow(
        self, stream: _Stream, stop: Sequence[str], on_text: Callable[[str], None]
    ) -> tuple[FinishReason, int, int]:
        """Turn tokens into text as they come, until the end: reason, prompt tokens, reply tokens."""
        characters, stops = Utf8Stream(), StopStrings(stop)
        pieces, count, hit = self._pieces, 0, False
        try:
            while not isinstance(item := stream.tokens.get(), End):
                if hit:
                    continue
                count += len(item)
                text = stops.feed(characters.feed(b"".join([pieces[token] for token in item])))
                if text:
                    on_text(text)
                if stops.hit:
                    hit, stream.cancel = True, _SET  # the end still comes and tells the length of the prompt
        finally:
            stream.cancel = _SET  # on_text raised: nobody reads on
        if hit:
            return "stop", item.prompt_tokens, count
        if item.reason == "refused":
            raise EngineRefused(item.error)
        if item.reason == "failed":
            raise EngineError(item.error)
        if item.reason != "cancelled" and (text := stops.rest()):
            on_text(text)
        return item.reason, item.prompt_tokens, count

    # loading

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._wire = Wire(ours, Answer)
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ours, theirs, started), name="openvino", daemon=True)
        self._thread.start()
        started.wait()

    def _open(self, folder: Path, manifest: Manifest) -> str:
        """Have the device load this; gives what is wrong with it."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        self._pieces = msgspec.msgpack.decode((folder / "vocabulary.msgpack").read_bytes(), type=list[bytes])
        if manifest.context_tokens:
            self.context_tokens = min(self.context_tokens, manifest.context_tokens)
        blocks = _kv_blocks(self.context_tokens, self._slots, manifest.kv_bytes_per_token)
        chunk_tokens = _chunk_tokens(self._file.size_bytes)
        self._send(Open(str(folder), manifest.blob, self._threads, blocks, self._slots, chunk_tokens, manifest.end_ids))
        return self._opened.get().error

    # the engine's thread

    def _run(self, ours: socket.socket, theirs: socket.socket, started: threading.Event) -> None:
        """Start the device process and hear it until it ends. The kernel ends it when this thread does."""
        command = [sys.executable, "-m", "workers.engines.openvino_device"]
        reason = ""
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(self._hang_s), str(self._trace_file)],
                    cwd=CODE,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            started.set()
            reason = self._hear()
        except Exception as error:
            log.exception("the engine's thread failed")
            reason = str(error) or type(error).__name__
        finally:
            started.set()
            self._end(reason)
            ours.close()

    def _hear(self) -> str:
        """Pass on what the device says; gives why it stopped."""
        assert self._wire is not None  # noqa: S101 - made before the thread
        reason = ""
        try:
            while True:
                if not select.select([self._wire.sock], [], [], LISTEN_S)[0]:
                    self._look_after()
                    continue
                self._heard_at = time.monotonic()
                for answer in self._wire.receive():
                    if isinstance(answer, Step):
                        self._deliver(answer)
                    elif isinstance(answer, Encoded):
                        if waiting := self._asked.get(answer.id):
                            waiting.put(answer)
                    elif isinstance(answer, Opened):
                        self._opened.put(answer)
                    elif isinstance(answer, Dying):
                        reason = answer.reason
        except (EOFError, OSError):
            return reason

    def _look_after(self) -> None:
        """End a device process that is silent though it has work. Its own watchdog cannot, where it was frozen."""
        patience_s = (self._hang_s if self._steps else FIRST_HANG_S) * SILENCE_FACTOR
        if self._streams and time.monotonic() - self._heard_at > patience_s and self._process is not None:
            log.error("the device process said nothing for %.0f s", patience_s)
            self._process.kill()

    def _deliver(self, step: Step) -> None:
        self._steps += 1
        streams = self._streams
        for number, tokens in step.tokens:
            self._tokens += len(tokens)
            if stream := streams.get(number):
                stream.tokens.put(tokens)
        for end in step.ends:
            if stream := streams.pop(end.id, None):
                stream.tokens.put(end)
        for number, stream in list(streams.items()):
            if stream.cancel.is_set() and not stream.cancelled:
                stream.cancelled = True
                self._send(Cancel(number))

    def _end(self, reason: str) -> None:
        """The device is gone: nobody may wait for it any more."""
        if self._process is not None:
            reason = reason or _ended(self._process, patience_s=CLOSE_WAIT_S if self._closing else 1.0)
        reason = "it was closed" if self._closing else reason or "the device process did not start"
        with self._lock:
            served, self._dead = self._warm and not self._dead, reason
            streams, self._streams = self._streams, {}
            asked = list(self._asked.items())
        if served and not self._closing:
            log.error("the device process is gone: %s", reason)
            self._on_dead(reason)
        for number, stream in streams.items():
            stream.tokens.put(
                End(number, "cancelled") if self._closing else End(number, "failed", 0, f"The engine failed: {reason}")
            )
        for number, waiting in asked:
            waiting.put(Encoded(number, [], f"The engine has stopped: {reason}."))
        self._opened.put(Opened(reason))


_SET = threading.Event()
_SET.set()


def _ended(process: subprocess.Popen[bytes], patience_s: float) -> str:
    """Wait for the end of the process, help it along, and give its exit in words."""
    try:
        status = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    return f"signal {-status}" if status < 0 else f"exit {status}"


def _chunk_tokens(size_bytes: int) -> int:
    """Prompt tokens per step: nothing is heard or stopped meanwhile, so a large model takes fewer at a time."""
    if size_bytes < 250_000_000:
        return 256
    return 128 if size_bytes < 700_000_000 else 64


def _kv_blocks(context_tokens: int, streams: int, bytes_per_token: int) -> int:
    per_context = -(-context_tokens // BLOCK_TOKENS) + 1
    affordable = KV_BYTES_MAX // max(1, bytes_per_token * BLOCK_TOKENS)
    return max(per_context, min(per_context * streams, affordable))
