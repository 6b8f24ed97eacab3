"""Accepting a turn: the user's message and the job that answers it become durable in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from reef.contracts.jobs import ChatJob, CompletionJob, Grounding, GroundJob, Job
from reef.conversation import store
from reef.knowledge.grounding import has_documents
from reef.knowledge.visible import stores_of
from reef.ledger import JobRecord, Ledger, NewJob, PoolFull
from reef.personas.store import find_persona
from reef.placement.serving import Capacity, is_served, route_of
from reef.records.database import Database
from reef.records.tables import jobs, messages, sessions
from reef.topology import Topology

GROUND_PATIENCE_S = 4.0
"""A reply waits this long for the persona's documents to be asked, then begins without them."""
QUESTION_CHARS_MAX = 2_000
"""Of a message, as a question to the documents."""


class NotEditable(ValueError):
    """This message cannot be edited or regenerated; the text says why."""


class KeyReused(ValueError):
    """An idempotency key came again with another message: one of the two is a mistake, so neither is guessed."""


class PoolClosed(Exception):
    """No device serves this kind of job in queues.yaml."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted turn. `known`: the idempotency key had been used, nothing new was made."""

    run: JobRecord
    session_id: str
    persona_id: str
    prompt_message_id: str
    reply_message_id: str
    first: JobRecord
    """The job to be sent now: the run itself, or the stage before it."""
    new_session: bool = False
    known: bool = False


class Turns:
    """The one way into the ledger for conversation work."""

    def __init__(self, database: Database, ledger: Ledger, topology: Topology) -> None:
        self.database, self.ledger, self.topology = database, ledger, topology
        self.capacity = Capacity(topology, database)

    def say(
        self,
        persona_id: str,
        text: str,
        *,
        session_id: str | None = None,
        idempotency_key: str | None = None,
        tokens_max: int | None = None,
    ) -> Turn:
        """Store what the user said and accept the job that answers it.

        A session that does not exist is made, unless it was deleted. Raises UnknownPersona, DeletedSession, PoolClosed,
        PoolFull, LaneBusy (the persona is still answering in this session), KeyReused.
        """
        with self.database.write() as connection:
            persona = find_persona(connection, persona_id)
            session = store.look_up_session(connection, session_id) if session_id else None
            new_session = session is None
            if session is None:
                if session_id:
                    store.refuse_deleted(connection, session_id)
                session = store.create_session(connection, persona.id, session_id, store.title_from(text))
            session_id = session.id
            prompt = store.new_message(session_id, "user", text)
            turn = self._accept(connection, persona.id, prompt, idempotency_key, tokens_max)
            if turn.known:
                _check_key(connection, turn, persona.id, text)
                if new_session and turn.session_id != session_id:
                    connection.execute(sessions.delete().where(sessions.c.id == session_id))
                return turn
            store.add_message(connection, prompt)
            if not session.title:
                store.set_title(connection, session_id, store.title_from(text))
        return msgspec.structs.replace(turn, new_session=new_session)

    def regenerate(self, message_id: str) -> Turn:
        """Answer again: this reply and everything after it leave the conversation.

        Raises UnknownMessage, NotEditable, PoolFull, LaneBusy.
        """
        with self.database.write() as connection:
            reply = store.find_message(connection, message_id)
            said = store.history(connection, reply.session_id)
            place = next((n for n, message in enumerate(said) if message.id == reply.id), None)
            if reply.role != "assistant" or reply.persona_id is None or place is None:
                raise NotEditable("Only a reply that is part of the conversation can be generated again.")
            question = _question(said[:place])
            if question is None:
                raise NotEditable("A greeting answers nothing, so it cannot be generated again.")
            prompt = said[place - 1] if said[place - 1].cut_off else question
            turn = self._accept(connection, reply.persona_id, prompt, None, None, question.content)
            store.supersede_from(connection, reply)
        return turn

    def go_on(self, message_id: str) -> Turn:
        """Let the persona go on where its last reply was cut off; what it says is a message of its own.

        A run writes one message, once: appended to the one that is there, a reply that is told again after a restart
        could not be told apart from what was said before it. Raises UnknownMessage, NotEditable, PoolFull, LaneBusy.
        """
        with self.database.write() as connection:
            reply = store.find_message(connection, message_id)
            said = store.history(connection, reply.session_id)
            question = _question(said)
            if not (said and said[-1].id == reply.id and reply.cut_off and reply.persona_id and question):
                raise NotEditable("Only the last reply can go on, and only where it was cut off at its limit.")
            return self._accept(connection, reply.persona_id, reply, None, None, question.content)

    def edit(self, message_id: str, text: str) -> Turn:
        """Replace a user's message by another text; it and everything after it leave the conversation.

        Raises UnknownMessage, NotEditable, PoolFull, LaneBusy.
        """
        with self.database.write() as connection:
            old = store.find_message(connection, message_id)
            if old.role != "user" or old.id not in {m.id for m in store.history(connection, old.session_id)}:
                raise NotEditable("Only your own message that is part of the conversation can be edited.")
            session = store.find_session(connection, old.session_id)
            prompt = store.new_message(session.id, "user", text)
            turn = self._accept(connection, find_persona(connection, session.persona_id).id, prompt, None, None)
            store.supersede_from(connection, old)
            store.add_message(connection, prompt)
        return turn

    def complete(self, job: Job, attachment: bytes = b"") -> JobRecord:
        """Accept a job that belongs to no conversation. Raises PoolClosed, PoolFull, UnknownPersona."""
        with self.database.write() as connection:
            speaker = job.persona_id if isinstance(job, CompletionJob) else None
            route = route_of(self.topology, find_persona(connection, speaker)) if speaker else None
            new = msgspec.structs.replace(self._new(job), route=route, attachment=attachment)
            return self._submit(connection, new)

    def forget(self, session_id: str) -> list[JobRecord]:
        """Delete a conversation and end its runs; the runs that were active come back. Raises UnknownSession."""
        active = [self.ledger.stop(job.id) for job in self.ledger.active(session_id)]
        store.delete_session(self.database, session_id)
        return active

    def withdraw(self, turn: Turn) -> bool:
        """Undo a turn that could not be handed to the broker and that no worker has begun. True where it is gone."""
        with self.database.write() as connection:
            gone = connection.execute(
                jobs.delete().where(jobs.c.id == turn.run.id, jobs.c.state == "queued", jobs.c.token == 0)
            )
            if gone.rowcount != 1:
                return False
            connection.execute(jobs.delete().where(jobs.c.id == turn.first.id, jobs.c.token == 0))
            connection.execute(messages.delete().where(messages.c.id == turn.prompt_message_id))
            if turn.new_session:
                connection.execute(sessions.delete().where(sessions.c.id == turn.session_id))
        return True

    def _accept(
        self,
        connection: sa.Connection,
        persona_id: str,
        prompt: store.Message,
        idempotency_key: str | None,
        tokens_max: int | None,
        question: str = "",
    ) -> Turn:
        """The job that speaks after this message. `question` is for the documents; empty: the message is."""
        limit = self.topology.pool(ChatJob.POOL).limits.tokens_max
        run_id = uuid.uuid4().hex
        stage, grounding = self._ground(connection, persona_id, question or prompt.content, run_id)
        job = ChatJob(
            session_id=prompt.session_id,
            persona_id=persona_id,
            prompt_message_id=prompt.id,
            reply_message_id=uuid.uuid4().hex,
            tokens_max=min(tokens_max or limit, limit),
            grounding=grounding,
        )
        lane = f"chat:{prompt.session_id}:{persona_id}"
        delay_s = GROUND_PATIENCE_S if stage else 0.0
        new = self._new(job, session_id=prompt.session_id, lane=lane, key=idempotency_key, run_id=run_id)
        route = route_of(self.topology, find_persona(connection, persona_id))
        record = self._submit(connection, msgspec.structs.replace(new, delay_s=delay_s, route=route))
        stored = msgspec.json.decode(record.payload, type=ChatJob)
        known = stored.reply_message_id != job.reply_message_id
        if known and stage:
            connection.execute(jobs.delete().where(jobs.c.id == stage.id))
        return Turn(
            run=record,
            session_id=stored.session_id,
            persona_id=stored.persona_id,
            prompt_message_id=stored.prompt_message_id,
            reply_message_id=stored.reply_message_id,
            first=record if known or stage is None else stage,
            known=known,
        )

    def _ground(
        self, connection: sa.Connection, persona_id: str, question: str, run_id: str
    ) -> tuple[JobRecord | None, Grounding]:
        """The stage that asks the persona's documents, where it has any and somebody can ask them."""
        if not has_documents(connection, persona_id):
            return None, ""
        job = GroundJob(run_id=run_id, question=question[:QUESTION_CHARS_MAX], stores=list(stores_of(persona_id)))
        try:
            return self._submit(connection, self._new(job)), "wanted"
        except (PoolClosed, PoolFull):
            return None, "failed"

    def _new(
        self,
        job: Job,
        *,
        session_id: str | None = None,
        lane: str | None = None,
        key: str | None = None,
        run_id: str = "",
    ) -> NewJob:
        if not is_served(self.topology, type(job).POOL):
            raise PoolClosed(f"queues.yaml gives pool {type(job).POOL} no device, so nothing could answer.")
        pool = self.topology.pool(type(job).POOL)
        return NewJob(
            job=job,
            job_id=run_id,
            deadline_s=pool.limits.deadline_s,
            attempts_max=pool.limits.attempts_max,
            session_id=session_id,
            lane=lane,
            idempotency_key=key,
        )

    def _submit(self, connection: sa.Connection, new: NewJob) -> JobRecord:
        pool = self.topology.pool(type(new.job).POOL)
        streams = self.capacity.streams(pool)
        return self.ledger.submit(connection, new, waiting_max=pool.limits.waiting_max, streams=streams)


def _question(said: Sequence[store.Message]) -> store.Message | None:
    """What the person said last."""
    return next((message for message in reversed(said) if message.role == "user"), None)


def _check_key(connection: sa.Connection, turn: Turn, persona_id: str, text: str) -> None:
    said = connection.execute(
        sa.select(messages.c.content).where(messages.c.id == turn.prompt_message_id)
    ).scalar_one_or_none()
    if turn.persona_id != persona_id or said not in (None, text):
        raise KeyReused("This idempotency key was used for another message; give each message a key of its own.")
