"""Which engine a worker gets, and why."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest
from model_files import gguf_bytes

from reef.models import ModelStore
from reef.ports import ChatEngine, ChatMessage, ChatRequest, ChatResult, EngineError, Progress
from reef.settings import Settings
from reef.topology import Pool, load_topology
from workers.devices import cpu
from workers.engines.openvino_cache import UnreadableModelError
from workers.engines.select import WithFallback, choose_engine, environment, weight_bytes, why_not_openvino
from workers.engines.simulated import SimulatedEngine

BYTE_PAIRS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.chat_template": "{{ messages }}",
}


def pool(tmp_path: Path, device: str = "cpu", engine: str = "auto", model: str = "m") -> Pool:
    """The pool of a queues.yaml with one device."""
    path = tmp_path / "queues.yaml"
    entry = f"queue: chat, devices: [{device}], engine: {engine}, model: {model}"
    path.write_text(f"version: 1\npools:\n  chat: {{{entry}}}\n")
    return load_topology(path).pool("chat")


def chosen(tmp_path: Path, of: Pool, **settings: str) -> ChatEngine:
    """The engine of the pool's device."""
    return choose_engine(Settings(data_dir=tmp_path).changed(**settings), of, of.devices[0])


def own_model(tmp_path: Path, **metadata: str) -> str:
    """A model file in the data directory; gives its path."""
    path = tmp_path / "own.gguf"
    path.write_bytes(gguf_bytes(BYTE_PAIRS | {key.replace("__", "."): value for key, value in metadata.items()}))
    return str(path)


def test_auto_takes_openvino_where_it_reads_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a CPU with AVX2 a byte-pair llama model goes to OpenVINO, and the log says why."""
    monkeypatch.setattr(cpu, "flags", lambda: frozenset({"sse2", "avx2", "fma"}))
    with caplog.at_level(logging.INFO):
        engine = chosen(tmp_path, pool(tmp_path, model=own_model(tmp_path)))
    assert (engine.name, engine.model) == ("openvino", "own")
    assert "reads the model" in caplog.text
    engine.close()


@pytest.mark.parametrize(
    ("flags", "metadata", "why"),
    [
        (" sse2 avx ", {}, "no AVX2"),
        (" avx2 ", {"general__architecture": "gemma3"}, "gemma3"),
        (" avx2 ", {"tokenizer__ggml__model": "llama"}, "byte-pair"),
        (" avx2 ", {"tokenizer__ggml__pre": "strange"}, "strange"),
        (" avx2 ", {"tokenizer__chat_template": ""}, "no chat template"),
    ],
)
def test_auto_takes_llama_elsewhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    flags: str,
    metadata: dict[str, str],
    why: str,
) -> None:
    """An old CPU, another network, another vocabulary: llama.cpp serves, and the log says why."""
    monkeypatch.setattr(cpu, "flags", lambda: frozenset(flags.split()))
    with caplog.at_level(logging.INFO):
        engine = chosen(tmp_path, pool(tmp_path, model=own_model(tmp_path, **metadata)))
    assert engine.name == "llama"
    assert why in caplog.text
    engine.close()


def test_auto_never_simulates_and_never_goes_remote(tmp_path: Path) -> None:
    """Without a model, `auto` fails with the command to run; it does not pretend."""
    with pytest.raises(EngineError, match="coral-reef models pull smollm2-135m-instruct"):
        chosen(tmp_path, pool(tmp_path, model="smollm2-135m-instruct"), remote_url="http://127.0.0.1:9")


def test_devices_that_say_what_they_are(tmp_path: Path) -> None:
    """A simulated or remote device gets its own engine whatever the pool says; remote needs an address."""
    simulated = chosen(tmp_path, pool(tmp_path, "simulated"))
    assert simulated.name == "simulated"
    simulated.close()
    remote = pool(tmp_path, "remote", model="any")
    assert chosen(tmp_path, remote, remote_url="http://127.0.0.1:9").name == "remote"
    with pytest.raises(EngineError, match="REEF_REMOTE_URL"):
        chosen(tmp_path, remote)


def test_environment_before_the_start(tmp_path: Path) -> None:
    """A process that may load llama.cpp is started with libgomp's spinning bounded; others are left alone."""
    for device, engine, wanted in (("cpu", "auto", True), ("cpu", "openvino", False), ("simulated", "auto", False)):
        of = pool(tmp_path, device, engine)
        assert ("GOMP_SPINCOUNT" in environment(of, of.devices[0])) is wanted


def test_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On ARM the answer names the machine."""
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*real[:4], "aarch64")))
    model = ModelStore(tmp_path).resolve(own_model(tmp_path))
    assert "aarch64" in why_not_openvino(model)


class _Unreadable(SimulatedEngine):
    """An engine that finds out at loading that it cannot."""

    closed = False

    def __init__(self, trace_file: Path) -> None:
        super().__init__("simulated:token_ms=1", context_tokens=512, hang_s=60, trace_file=trace_file)

    def load(self, progress: Progress) -> None:
        raise UnreadableModelError("cannot read it")

    def close(self) -> None:
        self.closed = True
        super().close()


def test_fallback_at_loading(tmp_path: Path) -> None:
    """When the first engine cannot read the model after all, the second serves and is what the worker reports."""
    first, second = _Unreadable(tmp_path / "trace"), "simulated:token_ms=0"
    engine = WithFallback(
        first, lambda: SimulatedEngine(second, context_tokens=512, hang_s=60, trace_file=tmp_path / "trace")
    )
    assert engine.model == "simulated:token_ms=1"
    engine.load(lambda share, note: None)
    assert first.closed
    assert engine.model == second
    result = engine.generate(ChatRequest([ChatMessage("user", "hi")], 50), lambda text: None, threading.Event())
    assert isinstance(result, ChatResult)
    assert engine.steps() == engine.tokens() > 0
    assert engine.count_tokens([ChatMessage("user", "hi")]) == result.prompt_tokens
    engine.close()


@pytest.mark.parametrize(
    ("name", "engine", "says"),
    [
        ("chat", "parser", "cannot be served by engine 'parser'"),
        ("embed", "llama", "cannot be served by engine 'llama'"),
        ("tools", "auto", "No engine of this version serves pool tools"),
        ("media", "parser", "cannot be served by engine 'parser'"),
    ],
)
def test_a_pool_gets_an_engine_that_can_do_its_tasks(tmp_path: Path, name: str, engine: str, says: str) -> None:
    """One that cannot is refused when the worker starts, with those that can."""
    path = tmp_path / "queues.yaml"
    path.write_text(
        f"version: 1\npools:\n  chat: {{queue: c}}\n  {name}: {{queue: q, devices: [cpu], engine: {engine}}}\n"
    )
    of = load_topology(path).pool(name)
    with pytest.raises(EngineError, match=says):
        choose_engine(Settings(data_dir=tmp_path), of, of.devices[0])


@pytest.mark.parametrize("name", ["embed", "index", "media"])
def test_simulated_devices_of_knowledge_say_what_they_are(tmp_path: Path, name: str) -> None:
    """They are chosen by name only, and what they make is labelled."""
    path = tmp_path / "queues.yaml"
    path.write_text(f"version: 1\npools:\n  chat: {{queue: c}}\n  {name}: {{queue: q, devices: [simulated]}}\n")
    of = load_topology(path).pool(name)
    engine = choose_engine(Settings(data_dir=tmp_path), of, of.devices[0])
    assert engine.name == "simulated"
    engine.close()


def test_a_file_that_is_not_what_the_catalogue_says(tmp_path: Path) -> None:
    """A model under a catalogue name with another SHA-256 is refused with both, before anything loads it."""
    store = ModelStore(tmp_path)
    path = tmp_path / "models" / f"{store.demo.name}.gguf"
    path.parent.mkdir()
    path.write_bytes(gguf_bytes(BYTE_PAIRS))
    of = pool(tmp_path, model=store.demo.name)
    settings = Settings(data_dir=tmp_path)
    for use in (choose_engine, weight_bytes):
        with pytest.raises(EngineError, match=f"is not {store.demo.name}: its SHA-256 is .* catalogue has") as refused:
            use(settings, of, of.devices[0])
        assert "models pull" in str(refused.value)


def test_what_a_device_would_have_to_hold(tmp_path: Path) -> None:
    """The size of a local model's file; nothing for what holds no weights here."""
    path = own_model(tmp_path)
    local = pool(tmp_path, model=path)
    assert weight_bytes(Settings(data_dir=tmp_path), local, local.devices[0]) == Path(path).stat().st_size
    for device, model, size in (("simulated", "simulated:memory_mb=3", 3_000_000), ("remote", "any", 0)):
        of = pool(tmp_path, device, model=f'"{model}"')
        assert weight_bytes(Settings(data_dir=tmp_path), of, of.devices[0]) == size
    missing = pool(tmp_path, model="nothing-of-that-name")
    with pytest.raises(EngineError, match="nothing-of-that-name"):
        weight_bytes(Settings(data_dir=tmp_path), missing, missing.devices[0])


@pytest.mark.parametrize("engine", ["auto", "llama", "openvino"])
def test_an_edge_tpu_is_never_silently_a_processor(tmp_path: Path, engine: str) -> None:
    """It runs no language model: its worker says so and what to do, and nothing is computed elsewhere in its name."""
    of = pool(tmp_path, device="usb:0", engine=engine)
    with pytest.raises(EngineError, match=r"No engine of pool chat uses an Edge TPU.*media or embed"):
        choose_engine(Settings(data_dir=tmp_path), of, of.devices[0])
