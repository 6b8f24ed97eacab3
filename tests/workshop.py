"""The pools of knowledge in one process, so that a test decides when each job runs: real records, broker, jobs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
import redis
import sqlalchemy as sa

from reef.contracts.events import Event
from reef.contracts.jobs import ChatJob, EmbedJob, EmbedTextsJob, GroundJob, IndexJob, Job, ParseJob, QueryJob
from reef.conversation.reply import write_reply
from reef.knowledge import asking, documents, grounding, stages
from reef.knowledge.asking import QueryResult
from reef.knowledge.documents import Document, Wanted
from reef.knowledge.exact import ExactVectors
from reef.knowledge.flow import Flow
from reef.knowledge.indexing import PassageIndex
from reef.knowledge.originals import Originals
from reef.knowledge.progress import Progress
from reef.knowledge.uploads import Limits, Uploads
from reef.ledger import Claim, JobRecord, Ledger, NewJob
from reef.ledger.execute import execute
from reef.ledger.sweep import sweep
from reef.ports import DeviceContext, Engine, KnowledgeContext, Station, StopReason
from reef.records.database import Database
from reef.records.tables import jobs
from reef.topology import load_topology
from workers.engines.simulated_knowledge import SimulatedEmbedding, SimulatedParser

QUEUES = """
version: 1
pools:
  chat: {queue: chat, devices: [simulated], engine: simulated, streams: 2}
  embed: {queue: embed, devices: [simulated], engine: simulated, streams: 4}
  index: {queue: index, devices: [simulated], engine: simulated, streams: 2}
"""
BODIES = {
    ParseJob: stages.parse_documents,
    EmbedJob: stages.embed_documents,
    IndexJob: stages.index_documents,
    QueryJob: asking.answer_query,
    GroundJob: grounding.ground,
    ChatJob: write_reply,
    EmbedTextsJob: asking.embed_texts,
}
KINDS: dict[str, type[Job]] = {kind.TASK: kind for kind in BODIES}


class Held:
    """A hold (reef.ports.Hold) that nobody watches."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self.reason: StopReason | None = None

    def progressed(self) -> None:
        """Nobody counts."""


class Holds:
    """reef.ports.Leases of a worker whose leases last."""

    def __init__(self) -> None:
        self.last = Held()

    @contextmanager
    def hold(self, _claim: Claim) -> Iterator[Held]:
        """Watch over nothing."""
        self.last = Held()
        yield self.last


class Unheard:
    """reef.ports.RunWriter that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def text(self, piece: str) -> None:
        """Nothing of knowledge tells text."""

    def emit(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    def close(self) -> None:
        """Nothing to do."""


class _Guest:
    """reef.ports.Visit to the one engine of a pool."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def engine(self, _job: JobRecord) -> Engine:
        """It is the same for all."""
        return self._engine


class Workshop:
    """Files on their way, job by job."""

    def __init__(self, database: Database, client: redis.Redis, directory: Path) -> None:
        queues = directory / "queues.yaml"
        queues.write_text(QUEUES, encoding="utf-8")
        self.topology = load_topology(queues)
        self.database, self.client = database, client
        self.ledger = Ledger(database)
        self.originals = Originals(directory / "data")
        self.progress = Progress(client, database)
        self.sent: list[str] = []
        self.flow = Flow(
            self.ledger, self.topology, self.originals, self.progress, lambda record: self.sent.append(record.id)
        )
        limits = Limits(file_bytes_max=10_000_000, files_max=5_000, upload_bytes_max=10**9, reserve_bytes=0)
        self.uploads = Uploads(self.flow, limits)
        self.index = PassageIndex(database, ExactVectors(database))
        self.engines: dict[str, Engine] = {
            "embed": SimulatedEmbedding("simulated"),
            "index": SimulatedParser("simulated"),
        }
        self.holds = Holds()
        self.writer = Unheard()

    def context(self, pool: str, node: str = "") -> DeviceContext:
        """What a job of this pool finds in its worker."""
        return self.station(pool, node).with_engine(self.engines[pool])

    def station(self, pool: str, node: str = "") -> Station:
        """What a worker of this pool has in its process."""
        return Station(
            node=node or f"{pool}-simulated",
            device="simulated",
            pool=self.topology.pool(pool),
            enter=lambda: nullcontext(_Guest(self.engines[pool])),
            pass_on=self.sent.append,
            database=self.database,
            ledger=self.ledger,
            leases=self.holds,
            open_writer=lambda _claim: self.writer,
            note_affinity=lambda _session: None,
            observe=lambda _measures: None,
            knowledge=KnowledgeContext(self.flow, self.index, lambda record: self.sent.append(record.id)),
        )

    # --- files

    def add(self, files: dict[str, str | bytes], stores: tuple[str, ...] = ("shared",), name: str = "test") -> str:
        """Upload these files; gives the upload's id."""
        upload = self.uploads.create(name, stores)
        kept = []
        for path, content in files.items():
            temporary = uuid.uuid4().hex
            with self.originals.receive(temporary, bytes_max=10_000_000) as incoming:
                incoming.write(content.encode() if isinstance(content, str) else content)
            kept.append((path, self.originals.keep(temporary)))
        self.uploads.add_kept(upload.id, kept)
        self.uploads.close(upload.id)
        return upload.id

    def documents(self, **wanted: str) -> list[Document]:
        """Documents by name."""
        found, _ = documents.list_documents(self.flow, Wanted(**wanted), 500, 0)
        return sorted(found, key=lambda document: (document.name, document.created_at, document.id))

    def states(self, **wanted: str) -> dict[str, str]:
        """State by name."""
        return {document.name: document.state for document in self.documents(**wanted)}

    # --- jobs

    def waiting(self, kind: type[Job] | None = None) -> list[JobRecord]:
        """Jobs that wait, oldest first."""
        query = sa.select(jobs.c.id).where(jobs.c.state == "queued").order_by(jobs.c.created_at, jobs.c.id)
        if kind is not None:
            query = query.where(jobs.c.task == kind.TASK)
        with self.database.read() as connection:
            ids = list(connection.execute(query).scalars())
        return [self.ledger.get(job_id) for job_id in ids]

    def run(self, record: JobRecord, node: str = "") -> JobRecord:
        """Do one job."""
        kind = KINDS[record.task]
        execute(self.station(kind.POOL, node), record.id, kind, BODIES[kind])  # type: ignore[arg-type]
        return self.ledger.get(record.id)

    def run_all(self, kind: type[Job] | None = None) -> int:
        """Do jobs until none waits; gives how many there were."""
        done = 0
        while waiting := self.waiting(kind):
            for record in waiting:
                self.run(record)
                done += 1
            assert done < 10_000, "it never ends"
        return done

    def claim(self, record: JobRecord, node: str = "doomed") -> Claim:
        """Take a job as a worker that will die."""
        claim = self.ledger.claim(record.id, node, 60.0)
        assert claim is not None
        return claim

    def submit(self, job: Job) -> JobRecord:
        """A job that a person waits for."""
        with self.database.write() as connection:
            new = NewJob(job=job, deadline_s=60, attempts_max=3)
            return self.ledger.submit(connection, new, waiting_max=100, streams=1)


def ask(shop: Workshop, question: str, *stores: str) -> list[str]:
    """Names of the documents that a search finds."""
    record = shop.run(shop.submit(QueryJob(question=question, stores=list(stores or ("shared",)))))
    assert record.state == "done", record.error
    return [passage.name for passage in msgspec.json.decode(record.result or "", type=QueryResult).passages]


def kill(shop: Workshop, node: str) -> None:
    """A worker is seen to die; the sweeper makes its round."""
    shop.ledger.release_owner(node)
    sweep(shop.ledger, lambda _job: None, lambda _pool: 0)
    shop.flow.look()


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the product catches it."""


def ids_of(record: JobRecord) -> list[str]:
    """The documents of a parse job."""
    return msgspec.json.decode(record.payload, type=ParseJob).document_ids
