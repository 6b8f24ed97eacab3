"""Models named on the command line: the table, and files by their heads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from model_files import gguf_bytes

from reef.models import ModelError
from reef.models.catalogue import load_catalogue
from reef.planning.models import UnknownModel, find_model, read_model

CORAL = Path(os.environ.get("REEF_TEST_DATA", Path(__file__).parents[4] / "shared" / "data")) / "coral"


def test_names_are_found_in_any_case_and_by_alias() -> None:
    """What queues.yaml calls the default model is the one of the table."""
    assert find_model("7b").parameters == 7e9
    assert find_model("smollm2-135m-instruct").name == "SmolLM2-135M"
    with pytest.raises(UnknownModel, match=r"'gpt' is neither a file nor one of 1B, 4B"):
        find_model("gpt")


def test_a_size_is_a_model() -> None:
    """Any number of billions; those of the specification keep the devices that it gives them."""
    assert (find_model("1.5B").name, find_model(".5b").parameters) == ("1.5B", 5e8)
    assert find_model("7.0B").spec_devices == find_model("7B").spec_devices == 8
    assert find_model("72B").spec_devices == 0
    for text in ("0B", "0.0b", "0.0001B", "20000B"):
        with pytest.raises(UnknownModel, match=r"from 0.001B to 10,000B"):
            find_model(text)


def test_every_model_of_the_catalogue_can_be_planned(tmp_path: Path) -> None:
    """Without its file, by what the catalogue knows; a file of that name in the folder knows better."""
    for name, entry in load_catalogue().items():
        model = find_model(name, (tmp_path,))
        assert model.role == "decoder"
        assert model.parameters == pytest.approx(entry.parameters, rel=0.001)
        assert 0.5 < entry.size_shown_bytes / model.parameters < 1.2, "a file of about four bits a parameter, or eight"
        assert model.file_bytes == entry.size_shown_bytes
    (tmp_path / "gemma-3-4b-instruct.gguf").write_bytes(gguf_bytes(elements=96))
    assert find_model("gemma-3-4b-instruct", (tmp_path,)).parameters == 96


def test_a_gguf_file_says_its_parameters(tmp_path: Path) -> None:
    """Parameters are counted from the tensors; an encoder is told from a model that writes."""
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf_bytes(elements=96))
    model = read_model(path)
    assert (model.name, model.parameters, model.role) == ("small", 96, "decoder")
    assert model.file_bytes == path.stat().st_size
    path.write_bytes(gguf_bytes({"general.architecture": "bert"}))
    assert read_model(path).role == "encoder"
    assert find_model("small", (tmp_path,)).role == "encoder"


def tflite_bytes(*, custom: str = "", elements: int = 12) -> bytes:
    """A .tflite file with one constant tensor, made by TensorFlow Lite's own schema."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph, tensor = schema.ModelT(), schema.SubGraphT(), schema.TensorT()
    code, empty, data = schema.OperatorCodeT(), schema.BufferT(), schema.BufferT()
    code.customCode = custom or None
    data.data = bytes(elements)
    tensor.shape, tensor.buffer, tensor.type = [elements // 4, 4], 1, schema.TensorType.INT8
    variable = schema.TensorT()
    variable.shape, variable.buffer = [100], 0
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [tensor, variable], [], [], []
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [empty, data], [code]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_tflite_file_says_its_parameters_and_who_compiled_it(tmp_path: Path) -> None:
    """Only constant tensors count; the Edge TPU compiler's operator is recognised."""
    path = tmp_path / "net.tflite"
    path.write_bytes(tflite_bytes())
    assert (read_model(path).parameters, read_model(path).compiled_bytes) == (12, 0)
    path.write_bytes(tflite_bytes(custom="edgetpu-custom-op"))
    assert read_model(path).weight_bytes == path.stat().st_size


@pytest.mark.parametrize("keep", [4, 9, 40, 100])
def test_a_cut_file_is_told(tmp_path: Path, keep: int) -> None:
    """No guess is made from half a file, and no traceback shown."""
    path = tmp_path / "cut.tflite"
    path.write_bytes(tflite_bytes()[:keep])
    with pytest.raises(ModelError, match=r"cut\.tflite"):
        read_model(path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_model(tmp_path / "absent.tflite")


@pytest.mark.skipif(not CORAL.is_dir(), reason=f"the Coral models are not in {CORAL} (REEF_TEST_DATA)")
def test_real_coral_models_are_read() -> None:
    """MobileNet v2 has the 3.5 million parameters of its paper; its compiled brother says that it is compiled."""
    assert read_model(CORAL / "mobilenet_v2_1.0_224_quant.tflite").parameters == pytest.approx(3.5e6, rel=0.02)
    compiled = read_model(CORAL / "mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    assert compiled.weight_bytes == 801_454
