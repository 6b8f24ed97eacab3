"""The shapes through which tasks reach a device's engine. Protocols and plain values only: no engine, no driver.

Engines live in `workers/engines/`; a worker process puts exactly one of them into `reef.runtime` at its start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled"]
Progress = Callable[[float, str], None]
"""Called with a share done in 0..1 and a sentence for a person."""


class EngineError(RuntimeError):
    """The engine could not serve this request; the message says why, and another try may work."""


class EngineRefused(EngineError):
    """The request can never work on this engine (prompt longer than the context, bad schema): no retry."""


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a prompt."""

    role: Role
    content: str


class ChatRequest(msgspec.Struct, frozen=True):
    """One generation.

    `cache_key` names the conversation whose prompt prefix the engine may keep warm (a session id).
    `schema` is a JSON Schema the output must satisfy. `seed` None means a fresh random one.
    """

    messages: Sequence[ChatMessage]
    tokens_max: int
    temperature: float = 0.7
    top_p: float = 0.95
    stop: Sequence[str] = ()
    seed: int | None = None
    schema: Mapping[str, Any] | None = None
    cache_key: str | None = None


class ChatResult(msgspec.Struct, frozen=True):
    """How a generation ended. Token counts are the engine's own; `cached_tokens` is None where it cannot tell."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@runtime_checkable
class ChatEngine(Protocol):
    """A language model on one device, serving several conversations at once by continuous batching.

    Thread-safe: `generate` is called from as many threads as the device has streams and blocks its caller.
    """

    name: str
    """Engine kind: openvino, llama, remote, simulated."""
    model: str
    """Name of the loaded model, as users know it."""
    context_tokens: int
    """Prompt and reply together may not be longer than this."""

    def load(self, progress: Progress) -> None:
        """Load and warm the model. Raises EngineError with what to do next."""

    def generate(self, request: ChatRequest, on_text: Callable[[str], None], cancel: threading.Event) -> ChatResult:
        """Generate a reply, calling `on_text` with each new piece of text in the caller's thread.

        Setting `cancel` ends it at the next token, during prompt processing too.
        Raises EngineError, or EngineRefused when a retry cannot help.
        """

    def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """Length in tokens of these messages under the model's chat template."""

    def steps(self) -> int:
        """A counter that grows with every call the device finished: what a lease is renewed from."""

    def close(self) -> None:
        """Free the device. Generations in flight end as cancelled."""
