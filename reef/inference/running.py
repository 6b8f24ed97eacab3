"""The job of the media pool: run a model over what a client sent, and leave the answer in the ledger.

What was sent stands beside the job (reef/ledger/attachments.py) and is forgotten soon after its end.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from numpy.typing import NDArray

from reef.contracts.events import Done, Stopped, Usage
from reef.contracts.jobs import InferenceInputs, InferenceJob
from reef.inference.pictures import Label, as_input, best_labels, check_classifier
from reef.inference.tensors import OutputTensor, answer_bytes, check_dtypes, read_inputs, write_outputs
from reef.ledger import Claim
from reef.ledger.attachments import read_attachment
from reef.ports import Cancelled, DeviceContext, EngineRefused, Hold, ModelFacts, RunWriter

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
    try:
        result = _result(context, job, _sent(context, claim), hold)
    except Cancelled:
        if hold.reason == "drain":
            context.ledger.hand_back(claim)
        elif hold.reason == "stop" and context.ledger.finish(claim, "cancelled"):
            writer.emit(Stopped(usage=Usage(0, 0)))
        return
    if context.ledger.finish(claim, "done", result=msgspec.to_builtins(result)):
        writer.emit(Done(usage=Usage(0, 0), message_id=""))


def _sent(context: DeviceContext, claim: Claim) -> InferenceInputs:
    data = read_attachment(context.database, claim.job.id)
    if data is None:
        raise EngineRefused("The inputs of this job are gone; send them again.")
    return msgspec.msgpack.decode(data, type=InferenceInputs)


def _result(context: DeviceContext, job: InferenceJob, sent: InferenceInputs, hold: Hold) -> InferenceResult:
    engine = context.inference
    facts = engine.describe(job.model)
    check_dtypes(facts)
    inputs = _pictures(facts, sent.pictures, hold) if sent.pictures else read_inputs(facts, sent.tensors)
    _check_length(facts, len(sent.tensors), floats=job.floats)
    began = time.monotonic()
    outputs = engine.infer(job.model, inputs, hold.cancel)
    took_s = time.monotonic() - began
    context.observe_inference(len(inputs), took_s)
    answer: dict[str, Any] = {"model": job.model, "device": context.device, "device_s": round(took_s, 6)}
    if sent.pictures:
        return InferenceResult(labels=[best_labels(facts, one[0], job.top_k) for one in outputs], **answer)
    return InferenceResult(outputs=[write_outputs(facts, one, floats=job.floats) for one in outputs], **answer)


def _pictures(facts: ModelFacts, pictures: list[bytes], hold: Hold) -> list[list[NDArray[Any]]]:
    check_classifier(facts)
    made = []
    for number, data in enumerate(pictures):
        if hold.cancel.is_set():
            raise Cancelled
        made.append([as_input(data, facts.inputs[0], f"Picture {number}")])
        hold.progressed()
    return made


def _check_length(facts: ModelFacts, inputs: int, *, floats: bool) -> None:
    length = answer_bytes(facts, inputs, floats=floats)
    if length > ANSWER_BYTES_MAX:
        raise EngineRefused(
            f"The outputs of {inputs} inputs have {length} bytes; one request may get {ANSWER_BYTES_MAX}. "
            "Send fewer inputs at once."
        )
