"""Which model fits which device: asked in one place by whoever gives a device a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_files import gguf_bytes
from tiny_networks import dense_tflite

from reef.models import ModelError, ModelMissing, ModelStore
from reef.models.errors import BadModelName
from reef.models.fitting import check, pools_for
from reef.models.tflite import COMPILED_QUANTISATION
from reef.topology import Topology, load_topology

QUEUES = """
version: 1
pools:
  chat: {queue: chat, devices: [cpu, remote], model: own}
  embed: {queue: embed, devices: [cpu], model: encoder}
  index: {queue: index, devices: [cpu]}
  media: {queue: media, devices: [cpu, "usb:0"]}
"""
SIMULATED = """
version: 1
pools:
  chat: {queue: chat, devices: [simulated], model: own}
  media: {queue: media, devices: [simulated]}
"""


def topology_of(text: str, directory: Path) -> Topology:
    path = directory / "queues.yaml"
    path.write_text(text, encoding="utf-8")
    return load_topology(path)


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    return topology_of(QUEUES, tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A language model, an adapter for it, and a network."""
    store = ModelStore(tmp_path)
    store.folder.mkdir()
    (store.folder / "words.gguf").write_bytes(gguf_bytes())
    (store.folder / "style.gguf").write_bytes(gguf_bytes({"general.type": "adapter", "adapter.type": "lora"}))
    (store.folder / "sees.tflite").write_bytes(dense_tflite())
    return store


@pytest.mark.parametrize(
    ("pool", "device", "model", "wrong", "says"),
    [
        ("chat", "cpu", "words", None, ""),
        ("chat", "cpu", "words+style", None, ""),
        ("chat", "cpu", "own", None, ""),
        ("chat", "cpu", "words+words", ModelError, "is a model, not an adapter"),
        ("chat", "cpu", "style", ModelError, "this one is lora"),
        ("chat", "cpu", "sees", ModelError, "in gguf format; this one is tflite"),
        ("chat", "cpu", "nosuch", ModelMissing, "No model is called"),
        ("chat", "cpu", "smollm2-135m-instruct", ModelMissing, "models pull smollm2-135m-instruct"),
        ("chat", "cpu", "words.gguf", BadModelName, "a model is a name"),
        ("chat", "cpu", "words+style@99", BadModelName, "expected MODEL"),
        ("chat", "remote", "meta/llama-3:8b", None, ""),
        ("chat", "remote", "/etc/passwd", BadModelName, "a model is a name"),
        ("chat", "remote", "a/../../b", BadModelName, "a model is a name"),
        ("chat", "simulated", "simulated:token_ms=3", None, ""),
        ("chat", "simulated", "../../etc/passwd", BadModelName, "a model is a name"),
        ("embed", "cpu", "encoder", None, ""),
        ("embed", "cpu", "words", ModelError, "vectors of all documents"),
        ("index", "cpu", "sees", ModelError, "Pool index loads no models; chat and media do"),
        ("media", "cpu", "sees", None, ""),
        ("media", "simulated", "anything", None, ""),
        ("media", "usb:0", "sees", ModelError, "media-usb-0 is: run edgetpu_compiler"),
    ],
)
def test_what_fits(
    tmp_path: Path, store: ModelStore, pool: str, device: str, model: str, wrong: type[Exception] | None, says: str
) -> None:
    """Name, presence, adapters, format, the encoder's rule, and the compiled form for an Edge TPU."""
    of = topology_of(SIMULATED if device == "simulated" else QUEUES, tmp_path).pool(pool)
    devices = {of.node(of.device(device)): of.device(device)}
    if wrong is None:
        check(store, model, of, devices)
        return
    with pytest.raises(wrong, match=says) as error:
        check(store, model, of, devices)
    assert type(error.value) is wrong


def test_the_compiled_form_is_for_edge_tpus_alone(
    topology: Topology, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NAME means NAME_edgetpu.tflite there; a processor is not given it."""
    (store.folder / "sees.tflite").rename(store.folder / "sees_edgetpu.tflite")
    monkeypatch.setattr("reef.models.tflite.TfliteHead.compiled", property(lambda _head: True))
    of = topology.pool("media")
    check(store, "sees", of, {"media-usb-0": of.device("usb:0")})
    check(store, "sees_edgetpu", of, {"media-usb-0": of.device("usb:0")})
    with pytest.raises(ModelError, match=r"media-cpu is none: put sees\.tflite beside it"):
        check(store, "sees", of, {"media-cpu": of.device("cpu")})


def test_the_pools_that_can_take_a_model(topology: Topology, tmp_path: Path) -> None:
    """By format, and by the devices that a pool has: a compiled network needs an Edge TPU or a simulated device."""
    assert pools_for("gguf", "Q4_0", False, topology) == ["chat"]
    assert pools_for("tflite", "int8", False, topology) == ["media"]
    assert [pools_for(form, "", False, topology) for form in ("lora", "encoder", "onnx")] == [[], [], []]
    assert pools_for("tflite", COMPILED_QUANTISATION, False, topology_of(SIMULATED, tmp_path)) == ["media"]
    plain = topology_of(QUEUES.replace(', "usb:0"]', "]"), tmp_path)
    assert pools_for("tflite", COMPILED_QUANTISATION, False, plain) == []
    only = topology_of(QUEUES.replace('[cpu, "usb:0"]', '["usb:0"]'), tmp_path)
    assert pools_for("tflite", COMPILED_QUANTISATION, False, only) == ["media"]
    assert pools_for("tflite", "int8", False, only) == []
    assert pools_for("tflite", "int8", True, only) == ["media"], "its compiled form lies beside it"
