"""A whole plan as values: what the weights need, what the strategies do with the load, what of the targets is possible.

Makes no text for a terminal (cli/plan.py) and no picture (plot_svg.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reef.planning import physics
from reef.planning.compare import RUNS, SEED, Outcome, best, compare, why
from reef.planning.curves import Staged
from reef.planning.devices import DeviceSet
from reef.planning.models import PlannedModel
from reef.planning.verdict import EMBEDDING_TOKENS, NO_DECODER, Judgement, Targets, alternatives, judge
from reef.planning.workload import Load


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What one copy of a model that writes needs, and how fast it then is."""

    model: str
    devices: str
    parameters: float
    weight_bytes: float
    hold: int
    """Devices that keep all weights."""
    copy_devices: int
    """Devices of the copy the other figures are for: as the specification says, or as many as hold the weights."""
    token_s: float
    first_s: float
    """A prompt of the load, nobody else there."""
    tokens_per_s_one: float
    tokens_per_s_all: float
    streams: int
    copies: int
    """So many personas with a copy of their own at once; 0: one copy needs more devices."""
    copies_held: int
    """The same where every copy is to be held on chip."""


class Encoding(msgspec.Struct, frozen=True, kw_only=True):
    """What Edge TPUs could do with a model that makes vectors, or with any compiled network."""

    model: str
    devices: str
    weight_bytes: float
    hold: int
    most_per_s: float
    """At 100 % of the arithmetic of all devices; 0 where the work of a pass is not known."""
    usual_per_s: tuple[float, float]
    """At the share of it that published networks reach."""
    streamed_per_s: float
    """One text at a time on each device, what does not fit fetched for each."""
    note: str


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The strategies for one model and one set of devices."""

    model: str
    devices: str
    conversations: int
    outcomes: list[Outcome]
    best: str
    why: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `coral-reef plan` prints."""

    devices: list[DeviceSet]
    load: Load
    targets: Targets
    runs: int
    seed: int
    needs: list[Need]
    encodings: list[Encoding]
    compared: list[Compared]
    judgements: list[Judgement]
    notes: list[str]


class Nothing(ValueError):
    """There is nothing to plan."""


def make_plan(
    models: Sequence[PlannedModel],
    devices: Sequence[DeviceSet],
    load: Load,
    targets: Targets,
    runs: int = RUNS,
    seed: int = SEED,
) -> Plan:
    """Work everything out. Raises Nothing."""
    writing = [model for model in models if model.role == "decoder"]
    reading = [model for model in models if model.role != "decoder"]
    tpus = [one for one in devices if one.kind == "edgetpu"]
    if reading and not writing and not tpus:
        names = ", ".join(model.name for model in reading)
        raise Nothing(f"{names}: models that write no text are planned for Edge TPUs only (--devices edgetpu:N).")
    asked = list(models)
    return Plan(
        devices=list(devices),
        load=load,
        targets=targets,
        runs=runs,
        seed=seed,
        needs=[_need(model, one, load) for model in writing for one in devices],
        encodings=[_encoding(model, one) for model in reading for one in tpus],
        compared=[_compared(model, one, load, runs, seed) for model in writing for one in devices],
        judgements=_judgements(tpus, asked, targets, load.prompt),
        notes=_notes(tpus, asked),
    )


def _judgements(
    tpus: Sequence[DeviceSet], models: list[PlannedModel], targets: Targets, prompt: float
) -> list[Judgement]:
    """Target by target, for all sets."""
    columns = [judge(one, models, targets, prompt) for one in tpus]
    return [line for lines in zip(*columns, strict=True) for line in lines]


def _notes(tpus: Sequence[DeviceSet], models: list[PlannedModel]) -> list[str]:
    if not tpus:
        return []
    largest = max(tpus, key=lambda one: one.devices)
    writing = any(model.role == "decoder" for model in models)
    return [*([NO_DECODER] if writing else []), *alternatives(largest, models)]


def _compared(model: PlannedModel, devices: DeviceSet, load: Load, runs: int, seed: int) -> Compared:
    outcomes = compare(model, devices, load, runs, seed)
    winner = best(outcomes)
    return Compared(
        model=model.name,
        devices=devices.name,
        conversations=load.talkers(devices.devices),
        outcomes=outcomes,
        best=winner.strategy,
        why=why(winner, outcomes, model, devices),
    )


def _need(model: PlannedModel, devices: DeviceSet, load: Load) -> Need:
    hold = devices.hold(model)
    each = (model.spec_devices or hold) if devices.kind == "edgetpu" else 1
    curve = devices.curve(model, each)
    streams = curve.stages if isinstance(curve, Staged) else curve.streams
    return Need(
        model=model.name,
        devices=devices.name,
        parameters=model.parameters,
        weight_bytes=devices.weights(model),
        hold=hold,
        copy_devices=each,
        token_s=curve.step_s(1),
        first_s=curve.prompts_s([load.prompt]),
        tokens_per_s_one=curve.tokens_per_s(1),
        tokens_per_s_all=curve.tokens_per_s(streams),
        streams=streams,
        copies=devices.devices // each,
        copies_held=devices.devices // hold,
    )


def _encoding(model: PlannedModel, devices: DeviceSet) -> Encoding:
    silicon = devices.silicon
    assert silicon is not None  # noqa: S101 - asked for Edge TPUs only
    worst, usual = physics.efficiency_range()
    one = physics.encodings_per_s(model.parameters, EMBEDDING_TOKENS, silicon) if model.role == "encoder" else 0.0
    tokens = EMBEDDING_TOKENS if model.role == "encoder" else 0.0
    return Encoding(
        model=model.name,
        devices=devices.name,
        weight_bytes=model.weight_bytes,
        hold=devices.hold(model),
        most_per_s=devices.devices * one,
        usual_per_s=(devices.devices * one * worst, devices.devices * one * usual),
        streamed_per_s=devices.devices * physics.streamed_encodings_per_s(model.weight_bytes, tokens, silicon),
        note=model.note,
    )
