"""Jobs: what the ledger stores and what travels on the queues.

The Celery message is only a hint that a ledger row wants a worker (`JobHint`); the row's payload is the job.
Each payload names its task and its pool, so that the front door can send it without importing the task's body.
New fields need a default: a worker of the previous version must be able to read the next version's job.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class JobHint(msgspec.Struct, frozen=True, kw_only=True):
    """The only argument of every Celery task here."""

    job_id: str
    v: int = 1


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the payloads."""

    TASK: ClassVar[str]
    POOL: ClassVar[str]

    v: int = 1


class ChatJob(Job, frozen=True, kw_only=True):
    """Write the next reply of `persona_id` in a session, after the message `prompt_message_id`."""

    TASK: ClassVar[str] = "coralreef.chat.generate"
    POOL: ClassVar[str] = "chat"

    session_id: str
    persona_id: str
    prompt_message_id: str
    reply_message_id: str
    tokens_max: int
    temperature: float | None = None
    """None: the persona's own."""
    schema: dict[str, object] | None = None


class CompletionJob(Job, frozen=True, kw_only=True):
    """Answer a bare list of messages, as OpenAI clients send them: nothing is stored in a session."""

    TASK: ClassVar[str] = "coralreef.chat.complete"
    POOL: ClassVar[str] = "chat"

    messages: list[dict[str, str]]
    tokens_max: int
    persona_id: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] = []
    schema: dict[str, object] | None = None


JOBS: tuple[type[Job], ...] = (ChatJob, CompletionJob)
"""Every kind of job there is; queues.yaml and the compose file are held against this list."""
