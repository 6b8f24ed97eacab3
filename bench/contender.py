"""One engine in a process of its own, driven line by line: `python -m bench.contender KIND`. See bench/rivals.py.

Every kind gets the same messages, the greedy choice of token and the same length, and reports when each stream's
first text came. KIND: engine (our engine class), pipeline (openvino_genai with nothing around it), llama (the server
of llama.cpp, inside this process, which spares it HTTP), simulated (our simulated engine).
"""

from __future__ import annotations

import os

# llama.cpp's OpenMP spins for ever beside a busy neighbour unless told how long; must be set before it is loaded
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from bench.product import DATA, MODEL, cores
from reef.models import ModelStore
from reef.ports import ChatEngine, ChatMessage, ChatRequest

STREAMS, CONTEXT_TOKENS, CHUNK_TOKENS, BLOCK_TOKENS = 8, 4096, 256, 32
Prompt = list[dict[str, str]]


class Round(msgspec.Struct):
    """Prompts to be answered at once."""

    prompts: list[Prompt]
    tokens_max: int


class Answers(msgspec.Struct):
    """What came of a round; seconds since its begin."""

    wall_s: float
    first_s: list[float]
    tokens: list[int]
    prompt_tokens: list[int]


class Contender(Protocol):
    """An engine that answers rounds."""

    def answer(self, asked: Round) -> Answers:
        """Answer all prompts at once."""


class _Engine:
    """An engine of ours behind reef.ports.ChatEngine, called from as many threads as there are prompts."""

    def __init__(self, engine: ChatEngine) -> None:
        self.engine = engine
        engine.load(lambda share, note: None)

    def answer(self, asked: Round) -> Answers:
        def one(prompt: Prompt, on_text: Callable[[str], None]) -> tuple[int, int]:
            messages = [ChatMessage(**message) for message in prompt]  # type: ignore[arg-type]
            request = ChatRequest(messages, tokens_max=asked.tokens_max, temperature=0.0)
            result = self.engine.generate(request, on_text, threading.Event())
            return result.completion_tokens, result.prompt_tokens

        return _threads(asked, one)


class _Pipeline:
    """openvino_genai's pipeline, stepped in a bare loop: what the device can do when nobody is in its way."""

    def __init__(self) -> None:
        from workers.engines.openvino_cache import prepared
        from workers.engines.openvino_parts import make_pipeline, plain_import

        threads = cores()
        folder, manifest = prepared(ModelStore(DATA).resolve(MODEL), threads, lambda share, note: None)
        blocks = STREAMS * (CONTEXT_TOKENS // BLOCK_TOKENS + 1)
        self.genai, self.ends = plain_import(), manifest.end_ids
        self.pipeline = make_pipeline(
            folder, threads, blocks, streams=STREAMS, chunk_tokens=CHUNK_TOKENS, blob=manifest.blob
        )
        self.tokenizer = self.pipeline.get_tokenizer()
        self.asked = 0

    def answer(self, asked: Round) -> Answers:
        config = self.genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = asked.tokens_max
        config.set_eos_token_id(self.ends[0])
        config.stop_token_ids = set(self.ends)
        began = time.perf_counter()
        handles, prompt_tokens = [], []
        for prompt in asked.prompts:
            text = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True)
            ids = self.tokenizer.encode(text, add_special_tokens=False).input_ids
            self.asked += 1
            handles.append(self.pipeline.add_request(self.asked, ids, config))
            prompt_tokens.append(int(ids.shape[1]))
        first, tokens = [0.0] * len(handles), [0] * len(handles)
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            now = time.perf_counter() - began
            for place, handle in enumerate(handles):
                if handle.can_read():
                    for output in handle.read().values():
                        tokens[place] += len(output.generated_ids)
                        first[place] = first[place] or now
        return Answers(time.perf_counter() - began, first, tokens, prompt_tokens)


class _Llama:
    """The server of llama.cpp."""

    def __init__(self) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(ModelStore(DATA).resolve(MODEL).path)
        params.n_parallel, params.n_ctx = STREAMS, STREAMS * CONTEXT_TOKENS
        params.n_batch = params.n_ubatch = CHUNK_TOKENS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = cores()
        params.ui, params.verbosity, params.api_keys = False, 0, [os.urandom(16).hex()]
        self.server = xllamacpp.Server(params)

    def answer(self, asked: Round) -> Answers:
        def one(prompt: Prompt, on_text: Callable[[str], None]) -> tuple[int, int]:
            usage: dict[str, int] = {}

            def heard(chunk: dict[str, Any]) -> bool:
                for choice in chunk.get("choices", ()):
                    if text := choice["delta"].get("content"):
                        on_text(text)
                usage.update(chunk.get("usage") or {})
                return False

            body = {
                "messages": prompt,
                "max_tokens": asked.tokens_max,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                "cache_prompt": True,
            }
            self.server.handle_chat_completions(body, heard)
            return usage["completion_tokens"], usage["prompt_tokens"]

        return _threads(asked, one)


def _threads(asked: Round, one: Callable[[Prompt, Callable[[str], None]], tuple[int, int]]) -> Answers:
    count = len(asked.prompts)
    first, tokens, prompt_tokens = [0.0] * count, [0] * count, [0] * count
    began = time.perf_counter()

    def run(place: int) -> None:
        def on_text(_text: str) -> None:
            first[place] = first[place] or time.perf_counter() - began

        tokens[place], prompt_tokens[place] = one(asked.prompts[place], on_text)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Answers(time.perf_counter() - began, first, tokens, prompt_tokens)


def _make(kind: str) -> Contender:
    if kind == "pipeline":
        return _Pipeline()
    if kind == "llama":
        return _Llama()
    if kind == "simulated":
        from bench.simulated import fastest

        return _Engine(fastest())
    from workers.engines.openvino import OpenVinoEngine

    model = ModelStore(DATA).resolve(MODEL)
    trace = DATA / "logs" / "contender.trace"
    trace.parent.mkdir(exist_ok=True)
    return _Engine(OpenVinoEngine(model, streams=STREAMS, context_tokens=CONTEXT_TOKENS, hang_s=60.0, trace_file=trace))


def main() -> None:
    """Answer rounds until the input ends."""
    # the libraries print; the answers need a way of their own
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    contender = _make(sys.argv[1])
    answers.write(b'"ready"\n')
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(contender.answer(msgspec.json.decode(line, type=Round))) + b"\n")
    os._exit(0)  # llama.cpp's server hangs when it is taken down


if __name__ == "__main__":
    main()
