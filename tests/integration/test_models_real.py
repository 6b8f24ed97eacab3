"""The default model itself: quantised, and with an adapter on top, by the engine that serves users."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from whole_product import DEFAULT_MODEL, REAL_DATA

from cli.main import main
from reef.models import ModelError, ModelStore
from reef.models.formats import read_facts
from reef.ports import ChatMessage, ChatRequest, EngineError
from reef.settings import Settings
from reef.topology import load_topology
from workers.engines.llama import LlamaEngine, environment
from workers.engines.select import choose_engine

pytestmark = pytest.mark.timeout(300)


def quiet(share: float, note: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A data directory of this test's own with the default model and an adapter for it."""
    model = ModelStore(REAL_DATA).pull(DEFAULT_MODEL, quiet)
    store = ModelStore(tmp_path_factory.mktemp("data"))
    store.take_file(model.path, quiet, name=DEFAULT_MODEL, sha256=model.sha256, link=True)
    write_adapter(store.folder / "dreamer.gguf")
    return store


def write_adapter(path: Path, architecture: str = "llama") -> None:
    """A real adapter for the default model: rank 4 on some layers, strong enough to be heard."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    random = np.random.default_rng(0)
    for layer in range(0, 30, 3):
        for name, (out, into) in {"attn_q": (576, 576), "ffn_down": (576, 1536)}.items():
            place = f"blk.{layer}.{name}.weight"
            writer.add_tensor(f"{place}.lora_a", random.normal(0, 0.2, (4, into)).astype(np.float32))
            writer.add_tensor(f"{place}.lora_b", random.normal(0, 0.2, (out, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def engine(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    """What queues.yaml gets for `model: base+adapter`, loaded."""
    directory = tmp_path_factory.mktemp("queues")
    (directory / "queues.yaml").write_text(
        f"version: 1\npools:\n  chat: {{queue: chat, devices: [cpu], model: {DEFAULT_MODEL}+dreamer, streams: 2}}\n"
    )
    pool = load_topology(directory / "queues.yaml").pool("chat")
    chosen = choose_engine(Settings(data_dir=store.folder.parent), pool, pool.devices[0])
    assert isinstance(chosen, LlamaEngine), "adapters are llama.cpp's business"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        chosen.load(quiet)
    yield chosen
    chosen.close()


def ask(engine: LlamaEngine, model: str = "") -> str:
    """The beginning of a reply, always the same for the same weights."""
    pieces: list[str] = []
    request = ChatRequest([ChatMessage("user", "Name three fish.")], 12, temperature=0.0, model=model)
    engine.generate(request, pieces.append, threading.Event())
    return "".join(pieces)


def test_an_adapter_changes_what_is_said_and_scale_0_does_not(engine: LlamaEngine, store: ModelStore) -> None:
    """One loaded model serves both: bare for who names the bare model, with its adapter for who names that."""
    alone = LlamaEngine(
        store.resolve(DEFAULT_MODEL), streams=1, context_tokens=512, hang_s=60, trace_file=store.folder / "trace"
    )
    alone.load(quiet)
    try:
        bare = ask(alone)
    finally:
        alone.close()
    assert ask(engine) != bare
    assert ask(engine, f"{DEFAULT_MODEL}+dreamer") != bare
    assert ask(engine, DEFAULT_MODEL) == bare
    assert ask(engine, f"{DEFAULT_MODEL}+dreamer@0") == bare
    assert ask(engine, f"{DEFAULT_MODEL}+stranger") != bare, "what is not loaded cannot be asked for"


def test_an_adapter_of_another_network_is_refused(store: ModelStore, tmp_path: Path) -> None:
    """What cannot belong together is told before anything is loaded; so is an adapter alone."""
    write_adapter(tmp_path / "alien.gguf", "gemma3")
    store.take_file(tmp_path / "alien.gguf", quiet)
    with pytest.raises(ModelError, match=r"alien was made for a gemma3 network; .* is llama"):
        store.resolve(f"{DEFAULT_MODEL}+alien")
    with pytest.raises(ModelError, match="is an adapter, which needs a model"):
        store.resolve("dreamer")
    with pytest.raises(ModelError, match="is a model, not an adapter"):
        store.resolve(f"{DEFAULT_MODEL}+{DEFAULT_MODEL}")


def test_a_damaged_adapter_does_not_load(store: ModelStore, tmp_path: Path) -> None:
    """A file of the right head and the wrong tensors ends loading with a sentence that names it."""
    path = store.folder / "shapes.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 7), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.ones((9, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = store.resolve(f"{DEFAULT_MODEL}+shapes")
    engine = LlamaEngine(model, streams=1, context_tokens=512, hang_s=60, trace_file=tmp_path / "trace")
    with pytest.raises(EngineError, match=r"cannot load .*shapes\.gguf"):
        engine.load(quiet)
    engine.close()


def test_the_default_model_is_quantised_and_measured(store: ModelStore, tmp_path: Path) -> None:
    """The command prints size, speed and perplexity of both files; the new one is whole and was hardly harmed."""
    target = tmp_path / "half.gguf"
    arguments = ["quantize", DEFAULT_MODEL, str(target), "--to", "Q4_0", "--tokens", "64"]
    result = CliRunner().invoke(main, [*arguments, "--data-dir", str(store.folder.parent)])
    assert result.exit_code == 0, result.output
    assert read_facts(target).quantisation == "Q4_0"
    assert target.stat().st_size < store.resolve(DEFAULT_MODEL).size_bytes
    lines = [line.split() for line in result.output.splitlines()]
    perplexity = {line[0]: float(line[-1]) for line in lines if line and line[0].endswith(".gguf") and len(line) > 3}
    assert perplexity["half.gguf"] < perplexity[f"{DEFAULT_MODEL}.gguf"] * 1.5
    assert perplexity["half.gguf"] < 200, "a broken file would not predict a text at all"
    assert "quantised already" in result.output
