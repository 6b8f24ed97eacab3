"""The process that owns the OpenVINO pipeline: `python -m workers.engines.openvino_device FD HANG_S TRACE_FILE`.

One thread does everything. `step()` keeps the interpreter lock while it computes, so nothing else may live here: the
worker (openvino.py) claims, turns tokens into text and tells it meanwhile, in its own interpreter. Between two steps
the socket is read: new generations join the batch, cancelled ones leave it.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reef.ports import ChatMessage
from workers.engines.openvino_parts import make_pipeline, plain_import
from workers.engines.openvino_wire import (
    FIRST_HANG_S,
    Cancel,
    Dying,
    Encode,
    Encoded,
    End,
    Ending,
    Generate,
    Open,
    Opened,
    Request,
    Step,
    Wire,
)
from workers.watchdog import Watchdog

RESTARTS_MAX = 3
"""Failed steps in a row after which the device gives up."""
GATHER_S = 0.004
"""An idle device waits this long for company before the first step: conversations that come together start together."""
GATHER_MAX_S = 0.024
TELL_S = 0.035
"""Tokens that are not a reply's first are told this often: the worker that hears them needs the same cores."""
FIRST_PAUSE_S = 0.002
"""Pause after a reply's first token, so that it reaches the person: all cores are the next step's otherwise."""
PR_SET_PDEATHSIG = 1


class Refused(Exception):
    """This request can never be served."""


class _Stream:
    """One generation in the batch."""

    def __init__(self, id: int, handle: Any, prompt_tokens: int, schema: bool) -> None:
        self.id, self.handle, self.prompt_tokens, self.schema = id, handle, prompt_tokens, schema
        self.began = False

    def end(self, reason: Ending, error: str = "") -> End:
        return End(self.id, reason, self.prompt_tokens, error)


class Device:
    """The pipeline and the generations in it."""

    def __init__(self, wire: Wire[Request], watchdog: Watchdog) -> None:
        self._wire, self._watchdog = wire, watchdog
        self._hang_s = watchdog.timeout_s
        self._genai = plain_import()
        self._open: Open | None = None
        self._pipeline: Any = None
        self._tokenizer: Any = None
        self._live: dict[int, _Stream] = {}
        self._tokens: dict[int, list[int]] = {}
        self._ends: list[End] = []
        self._told_at = 0.0
        self._urgent = False
        self._failed_steps = 0

    def serve(self) -> None:
        """Until the worker closes the socket. Raises RuntimeError when the device stays broken."""
        self._watchdog.timeout_s = max(self._hang_s, FIRST_HANG_S)
        while True:
            idle = not self._live
            try:
                for request in self._wire.receive(wait=idle):
                    self._take(request)
                if idle and self._live:
                    self._gather()
                if self._live:
                    self._step()
                self._tell()
            except (EOFError, OSError):
                return

    def _tell(self) -> None:
        """Say what is new, at once where somebody waits for it."""
        now = time.monotonic()
        if self._urgent or self._ends or (self._live and now - self._told_at >= TELL_S):
            self._wire.send(Step(list(self._tokens.items()), self._ends))
            if self._urgent:
                time.sleep(FIRST_PAUSE_S)
            self._tokens, self._ends, self._told_at, self._urgent = {}, [], now, False

    def _gather(self) -> None:
        """Wait for conversations that come in the same moment."""
        until = time.monotonic() + GATHER_MAX_S
        self._wire.sock.settimeout(GATHER_S)
        try:
            while time.monotonic() < until:
                for request in self._wire.receive():
                    self._take(request)
        except TimeoutError:
            pass
        finally:
            self._wire.sock.settimeout(None)

    def _take(self, request: Request) -> None:
        if isinstance(request, Generate):
            self._admit(request)
        elif isinstance(request, Cancel):
            stream = self._live.pop(request.id, None)
            if stream is not None:
                stream.handle.cancel()
                self._ends.append(stream.end("cancelled"))
        elif isinstance(request, Encode):
            try:
                ids = [int(token) for token in self._ids(request.messages).data[0]]
                self._wire.send(Encoded(request.id, ids))
            except Refused as error:
                self._wire.send(Encoded(request.id, [], str(error)))
        else:
            self._load(request)

    def _load(self, request: Open) -> None:
        self._open = request
        try:
            self._build(request)
        except Exception as error:  # noqa: BLE001 - the library raises RuntimeError and friends for a broken file
            self._wire.send(Opened(str(error) or type(error).__name__))
        else:
            self._wire.send(Opened())

    def _build(self, request: Open) -> None:
        self._pipeline = None  # the memory of the old one first
        self._pipeline = make_pipeline(
            Path(request.folder),
            request.threads,
            request.kv_blocks,
            streams=request.streams,
            chunk_tokens=request.chunk_tokens,
            blob=request.blob,
        )
        self._tokenizer = self._pipeline.get_tokenizer()

    def _ids(self, messages: Sequence[ChatMessage]) -> Any:
        history = [{"role": message.role, "content": message.content} for message in messages]
        try:
            prompt = self._tokenizer.apply_chat_template(history, add_generation_prompt=True)
        except RuntimeError as error:
            raise Refused(f"The model's chat template refuses these messages: {error}") from error
        return self._tokenizer.encode(prompt, add_special_tokens=False).input_ids

    def _admit(self, request: Generate) -> None:
        prompt_tokens = 0
        try:
            ids = self._ids(request.messages)
            prompt_tokens = int(ids.shape[1])
            room = _room(prompt_tokens, request.context_tokens)
            handle = self._pipeline.add_request(request.id, ids, self._config(request, min(room, request.tokens_max)))
        except Refused as error:
            self._ends.append(End(request.id, "refused", prompt_tokens, str(error)))
        except (RuntimeError, ValueError) as error:
            self._ends.append(End(request.id, "refused", prompt_tokens, f"The model refuses this request: {error}"))
        else:
            self._live[request.id] = _Stream(request.id, handle, prompt_tokens, request.schema is not None)

    def _config(self, request: Generate, tokens_max: int) -> Any:
        assert self._open is not None  # noqa: S101 - nothing is admitted before
        config = self._genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = tokens_max
        config.set_eos_token_id(self._open.end_ids[0])
        config.stop_token_ids = set(self._open.end_ids)
        if request.temperature > 0:
            config.do_sample = True
            config.temperature, config.top_p = request.temperature, request.top_p
            config.repetition_penalty = request.repetition_penalty
            config.rng_seed = secrets.randbits(31) if request.seed is None else request.seed % (1 << 31)
        if request.schema is not None:
            config.structured_output_config = self._genai.StructuredOutputConfig(json_schema=json.dumps(request.schema))
        return config

    def _step(self) -> None:
        """One step for everybody."""
        if self._pipeline.has_non_finished_requests():
            try:
                with self._watchdog.guard():
                    self._pipeline.step()
            except RuntimeError as error:
                self._recover(error)
                return
            self._watchdog.timeout_s = self._hang_s
            self._failed_steps = 0
        self._read()

    def _read(self) -> None:
        status, none = self._genai.GenerationStatus, self._genai.GenerationFinishReason.NONE
        for stream in list(self._live.values()):
            handle = stream.handle
            reason = None
            if handle.can_read():
                output = next(iter(handle.read().values()))
                if output.generated_ids:
                    self._urgent |= not stream.began
                    stream.began = True
                    self._tokens.setdefault(stream.id, []).extend(output.generated_ids)
                if output.finish_reason != none:
                    reason = output.finish_reason
            if reason is None and handle.get_status() == status.RUNNING:
                continue
            del self._live[stream.id]
            self._ends.append(self._ended(stream, reason))

    def _ended(self, stream: _Stream, reason: Any) -> End:
        if reason is not None:
            return stream.end("length" if reason == self._genai.GenerationFinishReason.LENGTH else "stop")
        if stream.handle.get_status() == self._genai.GenerationStatus.IGNORED:
            return stream.end("failed", "The device had no memory left for this conversation.")
        return stream.end("stop")

    def _recover(self, error: RuntimeError) -> None:
        """A step that raised leaves the pipeline unusable: end what runs and build it anew."""
        for stream in self._live.values():
            if stream.schema and not stream.began:
                self._ends.append(stream.end("refused", f"The model cannot follow this schema: {error}"))
            else:
                self._ends.append(stream.end("failed", f"The engine failed and was started anew: {error}"))
        self._live.clear()
        self._failed_steps += 1
        if self._failed_steps >= RESTARTS_MAX or self._open is None:
            self._urgent = True
            self._tell()
            raise error
        self._build(self._open)


def _room(prompt_tokens: int, context_tokens: int) -> int:
    """Tokens left for the reply. Raises Refused where there are none."""
    if prompt_tokens >= context_tokens:
        raise Refused(
            f"The conversation has {prompt_tokens} tokens; the model takes {context_tokens} here. "
            "Send less, or raise context_tokens in queues.yaml."
        )
    return context_tokens - prompt_tokens


def main(arguments: Sequence[str]) -> int:
    """Serve the socket that was inherited as file descriptor FD."""
    fd, hang_s, trace_file = arguments
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worker drains and then closes the socket
    wire: Wire[Request] = Wire(socket.socket(fileno=int(fd)), Request)
    watchdog = Watchdog(float(hang_s), Path(trace_file))
    try:
        Device(wire, watchdog).serve()
    except BaseException as error:
        wire.send(Dying(str(error) or type(error).__name__))
        raise
    finally:
        watchdog.close()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # taking the pipeline apart takes a while and helps nobody
