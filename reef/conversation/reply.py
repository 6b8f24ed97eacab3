"""Writing a persona's reply on a device: prompt, generation, the events on the way, one durable end."""

from __future__ import annotations

import time
from typing import Literal

import msgspec
import sqlalchemy as sa

from reef.contracts.events import Done, Metrics, Notice, Restarted, Started, Stopped, Typing, Usage
from reef.contracts.jobs import ChatJob, CompletionJob
from reef.conversation import store
from reef.conversation.prompt import MEMORIES_TOLD_MAX, build_prompt, check_length
from reef.knowledge.citing import citations, sources_block, within
from reef.knowledge.grounding import passages_of
from reef.knowledge.model import Passage
from reef.ledger.model import Claim
from reef.personas.store import UnknownPersona, find_persona, recall
from reef.ports import (
    ChatMessage,
    ChatRequest,
    ChatResult,
    DeviceContext,
    EngineRefused,
    Hold,
    ReplyMeasures,
    RunWriter,
)

REPETITION_PENALTY = 1.1
"""For personas. OpenAI clients get what they ask for and nothing else."""
SOURCES_TOKENS_MAX = 1_200
"""Of a prompt, for passages of documents: a small device reads some hundred tokens a second."""
GROUNDED_TEMPERATURE_MAX = 0.2
"""Of a reply that is given passages: a small model wanders away from them above that."""
BYTES_PER_TOKEN_MIN = 3
"""Languages with fewer make the passages a little longer than estimated; build_prompt counts exactly."""
NOTHING_FOUND = (
    "(No passage of your documents speaks of this. If the question is about them, say that you do not know.)"
)


def write_reply(context: DeviceContext, claim: Claim, job: ChatJob, writer: RunWriter, hold: Hold) -> None:
    """Answer a message of a session, or go on where a reply was cut off, and store what is said."""
    reply = _Reply(context, claim, writer, hold, job.persona_id)
    reply.announce()
    with context.database.read() as connection:
        try:
            persona = find_persona(connection, job.persona_id)
        except UnknownPersona:
            raise EngineRefused("This persona was deleted, so nobody can answer.") from None
        reply.tell_other_model(persona.model)
        memories = recall(connection, persona.id, MEMORIES_TOLD_MAX)
        said = _until(store.history(connection, job.session_id), job.prompt_message_id)
    quoted = reply.look_up(job, next((message.content for message in reversed(said) if message.role == "user"), ""))
    going_on = said[-1].cut_off
    messages, tokens_max = build_prompt(persona, memories, said, context.chat, job.tokens_max, quoted, going_on)
    request = ChatRequest(
        messages=messages,
        tokens_max=tokens_max,
        temperature=reply.temperature(persona.temperature if job.temperature is None else job.temperature),
        repetition_penalty=REPETITION_PENALTY,
        cache_key=job.session_id,
        schema=job.schema,
        model=persona.model,
    )
    try:
        result = reply.generate(request)
    except EngineRefused:
        if not going_on:
            check_length(messages, persona, context.chat)  # engines know tokens, a person knows messages
        raise
    if reply.end(result, store_as=job) and result.finish_reason != "cancelled":
        context.note_affinity(job.session_id)


def complete(context: DeviceContext, claim: Claim, job: CompletionJob, writer: RunWriter, hold: Hold) -> None:
    """Answer a bare list of messages; the reply lives in the run's events and result only."""
    reply = _Reply(context, claim, writer, hold, job.persona_id or "")
    reply.announce()
    messages = [msgspec.convert(message, ChatMessage) for message in job.messages]
    request = ChatRequest(
        messages=messages,
        tokens_max=job.tokens_max,
        temperature=0.7 if job.temperature is None else job.temperature,
        top_p=0.95 if job.top_p is None else job.top_p,
        seed=job.seed,
        stop=job.stop,
        schema=job.schema,
    )
    reply.end(reply.generate(request), store_as=None)


def plain_name(model: str) -> str:
    """A model's name whether it was named or given as a file."""
    return model.rpartition("/")[2].removesuffix(".gguf").lower()


def _tokens_at_most(text: str) -> int:
    return len(text.encode()) // BYTES_PER_TOKEN_MIN


def _until(said: list[store.Message], prompt_id: str) -> list[store.Message]:
    """The conversation up to the message to be answered: later ones belong to later turns."""
    for place, message in enumerate(said):
        if message.id == prompt_id:
            return said[: place + 1]
    raise EngineRefused("The message to be answered was deleted or replaced.")


class _Reply:
    """One attempt at a reply: its text so far and its clock."""

    def __init__(self, context: DeviceContext, claim: Claim, writer: RunWriter, hold: Hold, persona_id: str) -> None:
        self.context, self.claim, self.writer, self.hold = context, claim, writer, hold
        self.persona_id = persona_id
        self.pieces: list[str] = []
        self.began_s = time.monotonic()
        self.first_s: float | None = None
        self.prompt_s: float | None = None
        self.passages: list[Passage] = []
        self.notices: list[str] = []
        self.question = ""
        self.queue_s = max(0.0, (claim.job.started_at or 0.0) - claim.job.created_at)

    def announce(self) -> None:
        if self.claim.token > 1:
            self.writer.emit(Restarted(reason=self.claim.job.error or "another worker took over"))
        self.writer.emit(
            Started(
                persona_id=self.persona_id,
                device=self.context.device,
                model=self.context.engine.model,
                attempt=self.claim.job.attempts,
            )
        )
        self.writer.emit(Typing(persona_id=self.persona_id))

    def tell_other_model(self, wanted: str) -> None:
        """A persona is answered for by the model that is there, and a person hears of it."""
        answers = self.context.engine.model
        if wanted and plain_name(wanted) != plain_name(answers):
            self._notice(f"Answered by {answers}; {wanted} is not loaded.")

    def _notice(self, sentence: str) -> None:
        """Tell a person now, and whoever reads the reply later."""
        self.notices.append(sentence)
        self.writer.emit(Notice(message=" ".join(self.notices)))

    def look_up(self, job: ChatJob, question: str) -> str:
        """What the persona's documents say, for the prompt; tells a person where they could not be asked."""
        self.question = question
        if job.grounding in ("wanted", "failed"):
            self._notice("The documents could not be searched; this reply does without them.")
        if job.grounding == "nothing":
            return NOTHING_FOUND if "?" in question else ""
        if not job.sources:
            return ""
        with self.context.database.read() as connection:
            found = passages_of(connection, job.persona_id, job.sources)
        tokens_max = min(SOURCES_TOKENS_MAX, self.context.chat.context_tokens // 3)
        self.passages = within(found, tokens_max, _tokens_at_most)
        return sources_block(self.passages)

    def temperature(self, wanted: float) -> float:
        """A reply that rests on passages keeps to them."""
        return min(wanted, GROUNDED_TEMPERATURE_MAX) if self.passages else wanted

    def generate(self, request: ChatRequest) -> ChatResult:
        self.prompt_s = time.monotonic() - self.began_s
        return self.context.chat.generate(request, self._say, self.hold.cancel)

    def _say(self, piece: str) -> None:
        if self.first_s is None:
            self.first_s = time.monotonic() - self.began_s
        self.pieces.append(piece)
        self.writer.text(piece)

    def end(self, result: ChatResult, store_as: ChatJob | None) -> bool:
        """Make the end durable, then tell it. False where the claim was lost or handed back."""
        if result.finish_reason == "cancelled" and self.hold.reason != "stop":
            if self.hold.reason == "drain":
                self.context.ledger.hand_back(self.claim)
            return False
        stopped = result.finish_reason == "cancelled"
        text = "".join(self.pieces)
        usage = Usage(result.prompt_tokens, result.completion_tokens)
        metrics = self._metrics(result)
        reason: Literal["stop", "length"] = "length" if result.finish_reason == "length" else "stop"
        message: store.Message | None = None
        cited = citations(text, self.passages, self.question)
        if store_as is not None and (text or not stopped):
            message = store.new_message(
                store_as.session_id,
                "assistant",
                text,
                id=store_as.reply_message_id,
                persona_id=store_as.persona_id,
                state="stopped" if stopped else "complete",
                run_id=self.claim.job.id,
                usage=usage,
                metrics=metrics,
                citations=tuple(cited) or None,
                finish_reason=None if stopped else reason,
                notice=" ".join(self.notices) or None,
            )
        if not self._commit(stopped, message, text, usage, metrics, result):
            return False
        for citation in cited:
            self.writer.emit(citation)
        message_id = message.id if message else None
        if stopped:
            self.writer.emit(Stopped(usage=usage, message_id=message_id))
        else:
            self.writer.emit(Done(usage=usage, message_id=message_id or "", finish_reason=reason, metrics=metrics))
        self._observe(result, "stopped" if stopped else "done")
        return True

    def _commit(
        self,
        stopped: bool,
        message: store.Message | None,
        text: str,
        usage: Usage,
        metrics: Metrics,
        result: ChatResult,
    ) -> bool:
        def write(connection: sa.Connection) -> None:
            if message is None:
                return
            try:
                store.find_session(connection, message.session_id)
            except store.UnknownSession:
                return  # the conversation was deleted while this reply was written
            store.add_message(connection, message)

        outcome: dict[str, object] = {"usage": usage, "metrics": metrics, "finish_reason": result.finish_reason}
        if message is None:
            outcome["content"] = text
        else:
            outcome["message_id"] = message.id
        state = "cancelled" if stopped else "done"
        return self.context.ledger.finish(self.claim, state, result=outcome, within=write)

    def _metrics(self, result: ChatResult) -> Metrics:
        total_s = time.monotonic() - self.began_s
        decode_s = total_s - (self.first_s or 0.0)
        rate = (result.completion_tokens - 1) / decode_s if result.completion_tokens > 1 and decode_s > 0 else None
        return Metrics(
            queue_s=round(self.queue_s, 4),
            first_token_s=None if self.first_s is None else round(self.first_s, 4),
            tokens_per_s=None if rate is None else round(rate, 2),
            cached_tokens=result.cached_tokens,
        )

    def _observe(self, result: ChatResult, outcome: Literal["done", "stopped"]) -> None:
        measures = ReplyMeasures(
            queue_s=self.queue_s,
            first_token_s=self.first_s,
            total_s=time.monotonic() - self.began_s,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            outcome=outcome,
            prompt_s=self.prompt_s,
        )
        self.context.observe(measures)
        if self.context.spans is not None:
            self.context.spans.replied(self.claim, measures)
