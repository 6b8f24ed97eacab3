"""OpenAI's /v1/embeddings: texts in, vectors out, as numbers or base64."""

from __future__ import annotations

import base64
import sys
from array import array

import msgspec

from app.api.knowledge_shapes import (
    TEXT_CHARS_MAX,
    TEXTS_MAX,
    Embedding,
    Embeddings,
    EmbeddingsRequest,
    EmbeddingsUsage,
)
from app.questions import answer
from app.refusals import Refusal
from app.web import Call
from reef.contracts.jobs import EmbedTextsJob


class EmbedResult(msgspec.Struct, frozen=True):
    """What the job made (reef/knowledge/asking.py writes it)."""

    vectors: list[str]
    model: str
    tokens: int


def embed(call: Call) -> Embeddings:
    """Embed texts with the model of the embed pool, whatever `model` says."""
    body: EmbeddingsRequest = call.body
    job = EmbedTextsJob(texts=_texts(body), dimensions=body.dimensions)
    try:
        result = answer(call.services, job, EmbedResult)
    except Refusal as refusal:
        if refusal.code == "refused":
            raise _refused(refusal.detail) from None
        raise
    data = [
        Embedding(index=index, embedding=vector if body.encoding_format == "base64" else _floats(vector))
        for index, vector in enumerate(result.vectors)
    ]
    usage = EmbeddingsUsage(prompt_tokens=result.tokens, total_tokens=result.tokens)
    return Embeddings(data=data, model=result.model, usage=usage)


def _texts(body: EmbeddingsRequest) -> list[str]:
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not all(isinstance(text, str) for text in texts):
        raise _refused("Arrays of tokens are not supported: they belong to another model's vocabulary. Send text.")
    if not texts or len(texts) > TEXTS_MAX:
        raise _refused(f"Send 1 to {TEXTS_MAX} texts at once.")
    found = [text for text in texts if isinstance(text, str)]
    if not all(found):
        raise _refused("An empty text has no meaning to embed; leave it out.")
    if any(len(text) > TEXT_CHARS_MAX for text in found):
        raise _refused(f"A text may have {TEXT_CHARS_MAX} characters.")
    return found


def _refused(detail: str) -> Refusal:
    return Refusal(400, "bad_input", "Bad input", detail, param="input")


def _floats(vector: str) -> list[float]:
    numbers = array("f", base64.b64decode(vector))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
