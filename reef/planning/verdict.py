"""Targets held against physics: what the specification promises, the number that decides, and whether software exists.

The most a set of devices could do is looked for over all ways of cutting the model, so a "no" is no matter of tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta

from reef.planning import physics
from reef.planning.compare import megabytes, rate, seconds
from reef.planning.devices import DeviceSet
from reef.planning.models import E5_LARGE, MINILM, PlannedModel
from reef.planning.physics import Silicon
from reef.planning.values import BadValue, read_values

Answer = Literal["no", "physics only", "yes"]
"""Impossible on these devices; possible, but no software does it; possible and there is software."""

EMBEDDING_TOKENS = 128
SERVICES_SHARE = 8 / 96
"""Devices that the specification gives embedding."""
PIPELINE_DEVICES = 32
CLUSTER_DEVICES = 8
READING_TOKENS_PER_S = 5.0
"""People read 238 words a minute (Brysbaert 2019), about 1.3 tokens a word: a slower reply keeps them waiting."""
MEASURED_RETRIEVAL_S = 0.0162
"""p95 over 100,000 passages, on two CPU cores: `make bench BENCH="knowledge_search"` in docs/performance.md."""
MEASURED_DOCUMENTS_PER_H = 37_704
VECTORS_PER_DOCUMENT = 8.3
"""Both on two CPU cores: `make bench BENCH="ingestion"` in docs/performance.md, the slowest part of the run."""
NO_DECODER = (
    "No software: the Edge TPU compiler takes static shapes only, so no decoder with a growing cache "
    "(google-coral/edgetpu #668, pycoral #139, llama.cpp #1052, llamafile #40)."
)

Positive = Annotated[float, Meta(gt=0)]


class Targets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is wanted; the defaults are the specification. Counts are for `at_devices` devices and grow with them."""

    ttft_s: Positive = 0.2
    cluster_tokens_per_s: Positive = 30.0
    token_s: Positive = 0.2
    retrieval_s: Positive = 0.05
    at_devices: Annotated[int, Meta(ge=1)] = 96
    conversations: Positive = 24.0
    tokens_per_s: Positive = 800.0
    embeddings_per_s: Positive = 8_000.0
    documents_per_h: Positive = 20_000.0


class UnknownTargets(ValueError):
    """The file holds no targets; the message names what is expected."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One target on one set of devices."""

    target: str
    specified: str
    devices: str
    answer: Answer
    because: str


def load_targets(path: Path) -> Targets:
    """Targets of a YAML file. Raises UnknownTargets."""
    try:
        return read_values(Targets, yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UnknownTargets(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, BadValue, UnicodeDecodeError) as error:
        names = ", ".join(Targets.__struct_fields__)
        raise UnknownTargets(f"{path}: {error}. Expected a mapping of some of {names}.") from None


def judge(devices: DeviceSet, models: list[PlannedModel], targets: Targets, prompt: float) -> list[Judgement]:
    """Every target on a set of Edge TPUs, with the models that write."""
    return _Judge(devices, [model for model in models if model.role == "decoder"], targets, prompt).all()


class _Judge:
    def __init__(self, devices: DeviceSet, models: list[PlannedModel], targets: Targets, prompt: float) -> None:
        silicon = devices.silicon
        assert silicon is not None  # noqa: S101 - the caller asks for devices with figures only
        self.devices, self.models, self.targets, self.prompt = devices, models, targets, prompt
        self.silicon: Silicon = silicon
        self.count = devices.devices
        self.share = self.count / targets.at_devices

    def all(self) -> list[Judgement]:
        """In the order of the specification."""
        writing = (self.first_token, self.cluster, self.token, self.aggregate, self.conversations)
        reading = (self.embeddings, self.retrieval, self.documents)
        return [line() for line in (*(writing if self.models else ()), *reading)]

    # --- the best that physics allows, over all ways of cutting

    def first_s(self, weight_bytes: float) -> float:
        return min(self._pass(weight_bytes, k, self.prompt) for k in self._cuts(weight_bytes))

    def token_s(self, weight_bytes: float, most: int) -> float:
        return min(self._pass(weight_bytes, k, 1.0) for k in self._cuts(weight_bytes) if k <= most)

    def all_tokens_per_s(self, weight_bytes: float, count: int) -> float:
        """Copies of K devices, each with as many conversations as stages."""
        cuts = [k for k in self._cuts(weight_bytes) if k <= count]
        return max(count // k * k / self._pass(weight_bytes, k, 1.0) for k in cuts)

    def each_tokens_per_s(self, weight_bytes: float) -> float:
        """Pace of each of the wanted conversations where they share the devices evenly."""
        paces = []
        talkers = max(1.0, self.targets.conversations * self.share)
        for k in self._cuts(weight_bytes):
            together = -(-talkers // (self.count // k))
            paces.append(1 / (self._pass(weight_bytes, k, 1.0) * max(1.0, together / k)))
        return max(paces)

    def _pass(self, weight_bytes: float, devices: int, tokens: float) -> float:
        return physics.pass_s(weight_bytes, devices, self.silicon, tokens)

    def _cuts(self, weight_bytes: float) -> range:
        """More devices than hold the weights only add hops."""
        return range(1, min(self.count, physics.devices_to_hold(weight_bytes, self.silicon)) + 1)

    # --- writing

    def first_token(self) -> Judgement:
        wanted = self.targets.ttft_s
        return self._writing(
            f"first token, prompt of {self.prompt:.0f} tokens",
            f"< {seconds(wanted)}",
            lambda n: self.first_s(n) <= wanted,
            lambda n: seconds(self.first_s(n)),
        )

    def cluster(self) -> Judgement:
        wanted, size = self.targets.cluster_tokens_per_s, min(CLUSTER_DEVICES, self.count)
        return self._writing(
            f"a cluster of {size}, all its streams",
            f"≥ {wanted:.0f} tok/s",
            lambda n: self.all_tokens_per_s(n, size) >= wanted,
            lambda n: f"{rate(self.all_tokens_per_s(n, size))} tok/s",
        )

    def token(self) -> Judgement:
        wanted, size = self.targets.token_s, min(PIPELINE_DEVICES, self.count)
        return self._writing(
            f"a token, pipeline of up to {size}",
            f"≤ {seconds(wanted)}",
            lambda n: self.token_s(n, size) <= wanted,
            lambda n: seconds(self.token_s(n, size)),
        )

    def aggregate(self) -> Judgement:
        wanted = self.targets.tokens_per_s * self.share
        return self._writing(
            "tokens/s, all streams together",
            f"≥ {rate(wanted)} tok/s",
            lambda n: self.all_tokens_per_s(n, self.count) >= wanted,
            lambda n: f"{rate(self.all_tokens_per_s(n, self.count))} tok/s",
        )

    def conversations(self) -> Judgement:
        wanted = max(1.0, self.targets.conversations * self.share)
        return self._writing(
            f"conversations at reading pace, {READING_TOKENS_PER_S:.0f} tok/s each",
            f"{wanted:.0f}",
            lambda n: self.each_tokens_per_s(n) >= READING_TOKENS_PER_S,
            lambda n: f"{rate(self.each_tokens_per_s(n))} tok/s each",
        )

    def _writing(
        self, target: str, specified: str, good: Callable[[float], bool], number: Callable[[float], str]
    ) -> Judgement:
        """A target that depends on the model's size: the smallest and largest that fail, and the limit."""
        bad = [model for model in self.models if not good(model.weight_bytes)]
        shown = [self.models[0]] if not bad else [bad[0], *bad[1:][-1:]]
        numbers = ", ".join(f"{model.name} {number(model.weight_bytes)}" for model in shown)
        limit = physics.largest_model(good)
        text = f"{numbers}; possible up to {limit / 1e6:,.0f} M parameters" if limit else f"{numbers}; no model can"
        return self._told(target, specified, "no" if bad else "physics only", text)

    # --- documents

    def embeddings(self) -> Judgement:
        wanted = self.targets.embeddings_per_s * self.share
        pool = max(1, round(self.count * SERVICES_SHARE))
        large = physics.encodings_per_s(E5_LARGE.parameters, EMBEDDING_TOKENS, self.silicon)
        streamed = physics.streamed_encodings_per_s(E5_LARGE.weight_bytes, EMBEDDING_TOKENS, self.silicon)
        worst, best = physics.efficiency_range()
        small = physics.encodings_per_s(MINILM.parameters, EMBEDDING_TOKENS, self.silicon)
        text = (
            f"E5-large: {rate(pool * large)}/s on {pool} and {rate(self.count * large)}/s on all at 100 % of the "
            f"arithmetic, {rate(self.count * streamed)}/s one text at a time; MiniLM-L6 on all: "
            f"{rate(self.count * small * worst)} to {rate(self.count * small * best)}/s at the {worst:.0%} to "
            f"{best:.0%} that coral.ai's own networks reach"
        )
        answer: Answer = "physics only" if pool * large >= wanted else "no"
        return self._told(f"embeddings/s, {EMBEDDING_TOKENS} tokens each", f"≥ {rate(wanted)}/s", answer, text)

    def retrieval(self) -> Judgement:
        good = self.targets.retrieval_s >= MEASURED_RETRIEVAL_S
        text = f"{seconds(MEASURED_RETRIEVAL_S)} p95 measured with 100,000 passages on two CPU cores; needs no Edge TPU"
        wanted = f"< {seconds(self.targets.retrieval_s)}"
        return self._told("retrieval", wanted, "yes" if good else "no", text)

    def documents(self) -> Judgement:
        wanted = self.targets.documents_per_h * self.share
        vectors = wanted * VECTORS_PER_DOCUMENT / 3600
        text = (
            f"{MEASURED_DOCUMENTS_PER_H:,} an hour measured on two CPU cores; {wanted:,.0f} need {rate(vectors)} "
            f"embeddings/s, not {rate(self.targets.embeddings_per_s * self.share)}"
        )
        answer: Answer = "yes" if wanted <= MEASURED_DOCUMENTS_PER_H else "no"
        return self._told("documents indexed in an hour", f"≥ {wanted:,.0f}", answer, text)

    def _told(self, target: str, specified: str, answer: Answer, because: str) -> Judgement:
        return Judgement(target=target, specified=specified, devices=self.devices.name, answer=answer, because=because)


def alternatives(devices: DeviceSet, models: list[PlannedModel]) -> list[str]:
    """What can be done with these devices, or with their money, instead."""
    count = devices.devices
    network = next(row for row in physics.BENCHMARKS if row.name == "MobileNet v2")
    lines = [
        f"Vision and audio: a network that fits 7 MB runs on each device alone, so {count} are {count} times one: "
        f"{network.name} takes {seconds(network.usb_s)} (coral.ai), {count / network.usb_s:,.0f} images/s together.",
        "Writing on the host instead: two CPU cores measured 534 tok/s with SmolLM2-135M in eight conversations "
        '(make bench BENCH="chat").',
    ]
    big = max((model for model in models if model.role == "decoder"), key=lambda m: m.weight_bytes, default=None)
    gpu = DeviceSet(kind="cuda", count=1)
    assert gpu.silicon is not None  # noqa: S101
    fitting = [m for m in models if m.role == "decoder" and m.stored_bytes <= gpu.silicon.near_bytes]
    if big is not None and fitting:
        chosen = max(fitting, key=lambda model: model.weight_bytes)
        lines.append(
            f"The same money: {count} USB Accelerators at 30 to 60 USD (x2q.net, 2026) cost {count * 30:,} to "
            f"{count * 60:,} USD. One GPU of 24 GB and 1,008 GB/s (1,599 USD when new) holds {chosen.name} in four "
            f"bits ({megabytes(chosen.stored_bytes)}) and is bound to "
            f"{rate(gpu.curve(chosen, 1).tokens_per_s(1))} tok/s in one conversation by its memory."
        )
    return lines
