"""The job of the media pool: run a model over what a client sent, and leave the answer in the ledger.

What was sent is forgotten with the job's end: it may be megabytes, and nobody asks for it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from numpy.typing import NDArray

from reef.contracts.events import Done, Error, Stopped, Usage
from reef.contracts.jobs import InferenceJob
from reef.inference.pictures import Label, as_input, best_labels, check_classifier
from reef.inference.tensors import OutputTensor, answer_bytes, check_dtypes, read_inputs, write_outputs
from reef.ledger import Claim
from reef.ledger.model import as_json
from reef.ports import Cancelled, DeviceContext, EngineRefused, Hold, ModelFacts, RunWriter
from reef.records.tables import jobs

ANSWER_BYTES_MAX = 16 << 20
"""Outputs of one job; their base64 is a third longer."""


class InferenceResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a model made of the inputs: tensors, or labels of pictures. One entry an input."""

    model: str
    device: str
    outputs: list[list[OutputTensor]] = []
    labels: list[list[Label]] = []
    device_s: float = 0.0
    """Time on the device."""


def run_inference(context: DeviceContext, claim: Claim, job: InferenceJob, writer: RunWriter, hold: Hold) -> None:
    """Run a model over inputs or pictures."""
    forget = _forgetting(claim, job)
    try:
        result = _result(context, job, hold)
    except Cancelled:
        if hold.reason == "drain":
            context.ledger.hand_back(claim)
        elif hold.reason == "stop" and context.ledger.finish(claim, "cancelled", within=forget):
            writer.emit(Stopped(usage=Usage(0, 0)))
        return
    except EngineRefused as error:
        if context.ledger.finish(claim, "failed", error=str(error), within=forget):
            writer.emit(Error(code="refused", message=str(error)))
        return
    if context.ledger.finish(claim, "done", result=msgspec.to_builtins(result), within=forget):
        writer.emit(Done(usage=Usage(0, 0), message_id=""))


def _result(context: DeviceContext, job: InferenceJob, hold: Hold) -> InferenceResult:
    engine = context.inference
    facts = engine.describe(job.model)
    check_dtypes(facts)
    inputs = _pictures(facts, job, hold) if job.pictures else read_inputs(facts, job.inputs)
    _check_length(facts, job)
    began = time.monotonic()
    outputs = engine.infer(job.model, inputs, hold.cancel)
    took_s = time.monotonic() - began
    context.observe_inference(len(inputs), took_s)
    answer: dict[str, Any] = {"model": job.model, "device": context.device, "device_s": round(took_s, 6)}
    if job.pictures:
        return InferenceResult(labels=[best_labels(facts, one[0], job.top_k) for one in outputs], **answer)
    return InferenceResult(outputs=[write_outputs(facts, one, floats=job.floats) for one in outputs], **answer)


def _pictures(facts: ModelFacts, job: InferenceJob, hold: Hold) -> list[list[NDArray[Any]]]:
    check_classifier(facts)
    made = []
    for number, data in enumerate(job.pictures):
        if hold.cancel.is_set():
            raise Cancelled
        made.append([as_input(data, facts.inputs[0], f"Picture {number}")])
        hold.progressed()
    return made


def _check_length(facts: ModelFacts, job: InferenceJob) -> None:
    length = answer_bytes(facts, len(job.inputs), floats=job.floats)
    if length > ANSWER_BYTES_MAX:
        raise EngineRefused(
            f"The outputs of {len(job.inputs)} inputs have {length} bytes; one request may get {ANSWER_BYTES_MAX}. "
            "Send fewer inputs at once."
        )


def _forgetting(claim: Claim, job: InferenceJob) -> Callable[[sa.Connection], None]:
    bare = as_json(msgspec.structs.replace(job, inputs=[], pictures=[]))

    def forget(connection: sa.Connection) -> None:
        connection.execute(jobs.update().where(jobs.c.id == claim.job.id).values(payload=bare))

    return forget
