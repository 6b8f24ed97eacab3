"""Inference: tensors in and out, or pictures in and labels out. Computes nothing and loads no picture."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from flask import request
from msgspec import Meta

from app.questions import answer
from app.refusals import Refusal
from app.web import Call, Route
from reef.contracts.jobs import InferenceInputs, InferenceJob, InputTensor

BYTES_MAX = 8 << 20
"""Of one request, base64 included: it is held in memory, and it stands in the database until it is done."""
INPUTS_MAX = 256
PICTURES_MAX = 32
TOP_K_MAX = 100
TENSORS_MAX = 32
"""Tensors of one input."""
MODEL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

ModelName = Annotated[str, Meta(pattern=MODEL, max_length=128)]


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inputs for a model, each with the model's tensors; `floats` gives quantised outputs as values."""

    model: ModelName
    inputs: Annotated[
        list[Annotated[list[InputTensor], Meta(min_length=1, max_length=TENSORS_MAX)]],
        Meta(min_length=1, max_length=INPUTS_MAX),
    ]
    floats: bool = False


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of the answer. `data` is base64, row by row, little-endian; value = scale * (number - zero_point)."""

    name: str
    shape: list[int]
    dtype: str
    data: str
    scale: float = 0.0
    zero_point: int = 0


class InferenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The outputs of each input, in order. Times in seconds; `total_s` includes the wait for the device."""

    model: str
    device: str
    outputs: list[list[Tensor]]
    device_s: float
    total_s: float


class PictureLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A class of the model. `label` is its number where nobody wrote down its name."""

    label: str
    index: int
    score: float


class _PictureFields(msgspec.Struct, frozen=True, kw_only=True):
    """What comes with pictures."""

    model: ModelName
    top_k: Annotated[int, Meta(ge=1, le=TOP_K_MAX)] = 5


class LabelsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The best labels of each picture, in order."""

    model: str
    device: str
    labels: list[list[PictureLabel]]
    device_s: float
    total_s: float


class _Outputs(msgspec.Struct, frozen=True, kw_only=True):
    """What the job made of tensors (reef/inference/running.py writes it)."""

    model: str
    device: str
    outputs: list[list[Tensor]] = []
    device_s: float = 0.0


class _Labels(msgspec.Struct, frozen=True, kw_only=True):
    """What the job made of pictures."""

    model: str
    device: str
    labels: list[list[PictureLabel]] = []
    device_s: float = 0.0


def infer(call: Call) -> InferenceAnswer:
    """Run a model over tensors, up to 256 inputs and 8 MiB in one request.

    `device` of the answer is what computed it: `usb:0`, or `cpu (in place of usb:0)` while that is out of use.
    """
    body: InferenceRequest = call.body
    began = time.monotonic()
    sent = InferenceInputs(tensors=body.inputs)
    made = answer(call.services, InferenceJob(model=body.model, floats=body.floats), _Outputs, _packed(sent))
    return InferenceAnswer(**_timed(made, began))


def label(call: Call) -> LabelsAnswer:
    """Label pictures with a classifier: JPEG, PNG, WebP, BMP or GIF, up to 32 and 8 MiB in one request.

    `device` of the answer is what computed it: `usb:0`, or `cpu (in place of usb:0)` while that is out of use.
    """
    began = time.monotonic()
    job, sent = _read_pictures()
    made = answer(call.services, job, _Labels, _packed(sent))
    return LabelsAnswer(**_timed(made, began))


def _timed(made: _Outputs | _Labels, began: float) -> dict[str, Any]:
    return msgspec.structs.asdict(made) | {"total_s": round(time.monotonic() - began, 6)}


def _packed(sent: InferenceInputs) -> bytes:
    return msgspec.msgpack.encode(sent)


def _read_pictures() -> tuple[InferenceJob, InferenceInputs]:
    if request.mimetype != "multipart/form-data":
        raise Refusal(415, "not_multipart", "Not multipart", "Send the pictures as multipart/form-data.")
    request.max_content_length = BYTES_MAX
    pictures = [file.read() for file in request.files.getlist("file")]
    if not any(pictures):
        raise Refusal(400, "no_files", "No files", "The body has no picture; send at least one, -F file=@picture.jpg.")
    if len(pictures) > PICTURES_MAX:
        detail = f"One request may carry {PICTURES_MAX} pictures; send the others in another one."
        raise Refusal(413, "too_many_files", "Too many files", detail)
    given = {name: request.form[name] for name in _PictureFields.__struct_fields__ if name in request.form}
    fields = msgspec.convert(given, _PictureFields, strict=False)
    return InferenceJob(model=fields.model, top_k=fields.top_k), InferenceInputs(pictures=pictures)


INFERENCE_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/v1/inference",
        handler=infer,
        body=InferenceRequest,
        body_bytes_max=BYTES_MAX,
        answers={200: InferenceAnswer},
        errors=(422, 429, 502, 504),
        tag="inference",
    ),
    Route(
        method="POST",
        path="/api/v1/inference/pictures",
        handler=label,
        upload="multipart/form-data",
        upload_form="pictures",
        answers={200: LabelsAnswer},
        errors=(422, 429, 502, 504),
        tag="inference",
    ),
)
