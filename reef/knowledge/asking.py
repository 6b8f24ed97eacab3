"""Jobs that somebody waits for: finding the passages that answer a question, embedding texts for a client.

They run beside bulk work on the same device and are never more than one short device call behind it.
"""

from __future__ import annotations

import base64
import time

import msgspec

from reef.contracts.events import Done, Stopped, Usage
from reef.contracts.jobs import EmbedTextsJob, QueryJob
from reef.knowledge.model import Passage
from reef.knowledge.stages import EMBED_CALL_TEXTS_MAX
from reef.ledger import Claim
from reef.ports import Cancelled, DeviceContext, EngineRefused, Hold, RunWriter


class QueryResult(msgspec.Struct, frozen=True):
    """What a search found. Times in seconds."""

    passages: list[Passage]
    model: str
    tokens: int
    embed_s: float
    search_s: float


class EmbedResult(msgspec.Struct, frozen=True):
    """Vectors of some texts: base64 of little-endian float32."""

    vectors: list[str]
    model: str
    tokens: int


def answer_query(context: DeviceContext, claim: Claim, job: QueryJob, writer: RunWriter, _hold: Hold) -> None:
    """Find the passages that answer a question."""
    engine = context.embedding
    began = time.monotonic()
    vector = engine.embed_query(job.question)
    embedded = time.monotonic()
    passages = context.ingestion.index.search(job, vector)
    tokens = sum(engine.count_tokens([job.question]))
    searched = time.monotonic()
    result = QueryResult(passages, engine.model, tokens, round(embedded - began, 5), round(searched - embedded, 5))
    context.ingestion.observe_search(searched - began)
    if context.ledger.finish(claim, "done", result=msgspec.to_builtins(result)):
        writer.emit(Done(usage=Usage(tokens, 0), message_id=""))


def embed_texts(context: DeviceContext, claim: Claim, job: EmbedTextsJob, writer: RunWriter, hold: Hold) -> None:
    """Embed a client's texts."""
    engine = context.embedding
    if job.dimensions is not None and job.dimensions > engine.dimensions:
        raise EngineRefused(f"{engine.model} has {engine.dimensions} dimensions; {job.dimensions} were asked for.")
    lengths = engine.count_tokens(job.texts)
    for number, length in enumerate(lengths):
        if length > engine.window_tokens:
            raise EngineRefused(
                f"Text {number} has {length} tokens; {engine.model} reads {engine.window_tokens}. Cut it into parts."
            )
    vectors: list[str] = []
    try:
        for start in range(0, len(job.texts), EMBED_CALL_TEXTS_MAX):
            made = engine.embed_documents(job.texts[start : start + EMBED_CALL_TEXTS_MAX], hold.cancel)
            if job.dimensions is not None:
                made = made[:, : job.dimensions]
                made = made / (made**2).sum(axis=1, keepdims=True).clip(1e-24) ** 0.5
            vectors += [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in made]
            hold.progressed()
    except Cancelled:
        _end_cancelled(context, claim, writer, hold)
        return
    result = EmbedResult(vectors, engine.model, sum(lengths))
    if context.ledger.finish(claim, "done", result=msgspec.to_builtins(result)):
        writer.emit(Done(usage=Usage(sum(lengths), 0), message_id=""))


def _end_cancelled(context: DeviceContext, claim: Claim, writer: RunWriter, hold: Hold) -> None:
    if hold.reason == "drain":
        context.ledger.hand_back(claim)
    elif hold.reason == "stop" and context.ledger.finish(claim, "cancelled"):
        writer.emit(Stopped(usage=Usage(0, 0)))
