"""The job that brings a model here: fetch it as far as needed, check it, then let its nodes serve it.

It runs in the worker of pool maintenance: a process that owns no device, so that no reply waits for a download or a
hash. Dying with it costs nothing: the next claim goes on from the last byte.
"""

from __future__ import annotations

from reef.contracts.events import Done, Usage
from reef.contracts.jobs import FetchModelJob
from reef.ledger.model import Claim
from reef.models.adapters import parts_of
from reef.models.errors import Interrupted, ModelError
from reef.ports import Cancelled, DeviceContext, EngineError, EngineRefused, Hold, RunWriter


def fetch_model(context: DeviceContext, claim: Claim, job: FetchModelJob, writer: RunWriter, hold: Hold) -> None:
    """Do one job. Raises EngineError where another try may help, EngineRefused where none will."""
    keeping = context.keeping

    def progress(share: float, note: str) -> None:
        if hold.cancel.is_set():
            raise Cancelled
        hold.progressed()
        keeping.teller.progress(job.model, share, note)

    try:
        model = keeping.fetch(job, progress)
        placed = keeping.decisions.load(job.model, job.pool, job.nodes) if job.nodes else []
    except Cancelled:
        _give_back(context, claim, job, hold)
        return
    except Interrupted as error:
        if claim.job.attempts >= claim.job.attempts_max:
            _failed(context, job, str(error))
        raise EngineError(str(error)) from error
    except ModelError as error:
        _failed(context, job, str(error))
        raise EngineRefused(str(error)) from error
    keeping.registry.used(parts_of(job.model))
    result = {"model": job.model, "sha256": model.sha256, "nodes": [place.node for place in placed]}
    if context.ledger.finish(claim, "done", result=result):
        waits = f"; {len(placed)} devices load it" if placed else ""
        keeping.teller.tell(job.model, "LOADING" if placed else "CACHED", f"{job.model} is on this machine{waits}")
        writer.emit(Done(usage=Usage(0, 0), message_id=""))


def _failed(context: DeviceContext, job: FetchModelJob, why: str) -> None:
    context.keeping.registry.failed(job.model, why)
    context.keeping.teller.tell(job.model, "FAILED", why, share=0.0)


def _give_back(context: DeviceContext, claim: Claim, job: FetchModelJob, hold: Hold) -> None:
    if hold.reason == "drain":
        context.ledger.hand_back(claim)
    elif hold.reason in ("stop", "deadline"):
        state, why = ("cancelled", "stopped") if hold.reason == "stop" else ("failed", "it took longer than allowed")
        if context.ledger.finish(claim, state, error=why):
            arrived = context.keeping.store.parts.all()
            kept = any(part in arrived for part in parts_of(job.model))
            note = (
                f"{job.model} was not fetched to its end ({why}); {'what has arrived' if kept else 'nothing'} is kept"
            )
            context.keeping.teller.tell(job.model, "PARTIAL" if kept else "FAILED", note, share=0.0)
