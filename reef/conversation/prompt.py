"""Building the prompt of a turn: system text, memories, as much of the conversation as fits."""

from __future__ import annotations

from collections.abc import Sequence

from reef.conversation.store import Message
from reef.personas.store import Memory, Persona
from reef.ports import ChatEngine, ChatMessage, EngineRefused

MEMORIES_TOLD_MAX = 20
MEMORY_CHARS_MAX = 2_000
WINDOW_STEP = 8
"""The window over a long conversation moves by this many messages at once, so that most turns begin with the same
prefix and the device's prompt cache holds."""
MARKUP_TOKENS_MAX = 64
"""What a chat template puts around a message, at most."""
ANSWER_TOKENS_MIN = 64
"""A prompt that leaves less room than this for the answer is shortened."""
GO_ON = (
    "Your last message was cut off at its end. Go on exactly where it ends: do not repeat any of it, do not begin "
    "again, and do not speak of this."
)
"""What the model is told where a reply goes on. Nobody said it, so it is stored nowhere."""


class MessageTooLong(EngineRefused):
    """The one message to be answered does not fit the model."""

    code = "too_long"


class InstructionsTooLong(EngineRefused):
    """A persona's instructions leave no room for a message."""

    code = "instructions_too_long"


def build_prompt(
    persona: Persona,
    memories: Sequence[Memory],
    said: Sequence[Message],
    engine: ChatEngine,
    tokens_max: int,
    quoted: str = "",
    going_on: bool = False,
) -> tuple[list[ChatMessage], int]:
    """The messages to send and the tokens the answer may have.

    `quoted` stands right before the message to be answered, behind what was said earlier: the device's prompt cache
    holds up to there. `going_on`: there is none, the last reply was cut off and goes on.
    The oldest messages are left out when the whole does not fit the engine's context.
    """
    system = system_text(persona, memories)
    head = [ChatMessage("system", system)] if system else []
    turns = [
        ChatMessage("assistant" if message.role == "assistant" else "user", message.content)
        for message in said
        if message.content and message.state != "failed"
    ]
    if going_on:
        turns.append(ChatMessage("user", f"{quoted}\n\n{GO_ON}" if quoted else GO_ON))
    elif quoted and turns:
        turns[-1] = ChatMessage(turns[-1].role, f"{quoted}\n\nQuestion: {turns[-1].content}")
    start, last = 0, len(turns) - (2 if going_on else 1)
    while True:
        prompt = head + _joined(turns[start:])
        if _surely_fits(prompt, engine.context_tokens - tokens_max):
            return prompt, tokens_max
        used = engine.count_tokens(prompt)
        room = engine.context_tokens - used
        if room >= min(tokens_max, max(ANSWER_TOKENS_MIN, engine.context_tokens // 4)) or start >= last:
            return prompt, max(1, min(tokens_max, room))
        start = min(start + WINDOW_STEP, last)


def _joined(turns: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The pieces of a reply that was cut off as one: templates want the two to speak in turn."""
    joined: list[ChatMessage] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role == "assistant":
            joined[-1] = ChatMessage(turn.role, f"{joined[-1].content.rstrip()} {turn.content.lstrip()}")
        else:
            joined.append(turn)
    return joined


def check_length(prompt: Sequence[ChatMessage], persona: Persona, engine: ChatEngine) -> None:
    """Raises MessageTooLong or InstructionsTooLong where a prompt of build_prompt does not fit the engine.

    What was said earlier is left out by then, so it is one of the two: the longer one.
    """
    used = engine.count_tokens(prompt)
    if used < engine.context_tokens:
        return
    head = [message for message in prompt if message.role == "system"]
    instructed = engine.count_tokens(head) if head else 0
    if instructed > used - instructed:
        raise InstructionsTooLong(
            f"The instructions of {persona.name} leave no room for a message "
            f"({instructed:,} of {engine.context_tokens:,} tokens); shorten them."
        )
    raise MessageTooLong(
        f"This message is too long for the model ({used:,} of {engine.context_tokens:,} tokens); shorten it."
    )


def _surely_fits(prompt: Sequence[ChatMessage], tokens: int) -> bool:
    """Whether the prompt is this short without its tokens being counted: none stands for less than a byte."""
    return sum(len(message.content.encode()) + MARKUP_TOKENS_MAX for message in prompt) <= tokens


def system_text(persona: Persona, memories: Sequence[Memory]) -> str:
    """The persona's instructions followed by what it was told to remember, newest first, within a limit."""
    lines: list[str] = []
    size = 0
    for memory in memories[:MEMORIES_TOLD_MAX]:
        size += len(memory.text)
        if size > MEMORY_CHARS_MAX:
            break
        lines.append(f"- {memory.text}")
    known = "\n".join(["What you remember:", *lines]) if lines else ""
    return "\n\n".join(part for part in (persona.system_prompt.strip(), known) if part)
