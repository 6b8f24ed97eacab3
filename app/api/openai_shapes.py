"""OpenAI's chat completion shapes, as much of them as is served here; what is not is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

STOP_MAX = 8
MESSAGES_MAX = 2_000


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A piece of text within a message."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    """An image; refused, since no model here sees."""

    image_url: Any = None


class AudioPart(msgspec.Struct, frozen=True, tag_field="type", tag="input_audio"):
    """Audio; refused, since no model here hears."""

    input_audio: Any = None


Part = TextPart | ImagePart | AudioPart


class CompletionMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the prompt. Blank content is taken as it is: clients of OpenAI send it, and nothing is stored."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`include_usage`: one more chunk with the token counts before the end."""

    include_usage: bool | None = False


class JsonSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A named JSON Schema that the reply must satisfy."""

    name: str = ""
    schema: dict[str, Any] = {}
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """text, any JSON object, or JSON that satisfies a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A chat completion. `model` is a persona's id, or the model's name for no persona at all."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    messages: Annotated[list[CompletionMessage], Meta(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=STOP_MAX)] | None = None
    response_format: ResponseFormat | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    logit_bias: dict[str, Any] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    modalities: list[str] | None = None
    audio: Any = None


class CompletionUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts in OpenAI's words."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ReplyMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The reply."""

    role: str = "assistant"
    content: str
    refusal: str | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The one choice there is."""

    index: int = 0
    message: ReplyMessage
    logprobs: None = None
    finish_reason: str


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A finished chat completion."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a chunk adds."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The one choice of a chunk."""

    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a streamed completion."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A persona, or the model itself."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "coral-reef"


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """What can be named as `model`."""

    object: str = "list"
    data: list[Model]
