"""Names, tensors, pictures and labels around a model, and the models an engine keeps."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coral import coral
from PIL import Image

from bench import tiny_tflite
from reef.contracts.jobs import InputTensor
from reef.inference.models import find_in, known_models, labels_of, model_file
from reef.inference.pictures import as_input, best_labels, check_classifier
from reef.inference.tensors import read_inputs, write_outputs
from reef.models.tflite import asked_as
from reef.ports import Cancelled, EngineError, EngineRefused, ModelFacts, TensorSpec
from reef.topology import Device
from workers.engines.inference import TfliteInference
from workers.engines.simulated_inference import SimulatedInference

CPU = Device("cpu:0", "cpu", cores=(0,))
QUANTISED = TensorSpec("input", (1, 2, 2), "uint8", 0.5, 10)
FACTS = ModelFacts(name="m", inputs=(QUANTISED,), outputs=(TensorSpec("out", (1, 3), "int8", 0.25, -4),))
MakeEngine = Callable[..., TfliteInference]


@pytest.fixture
def make_engine(tmp_path: Path) -> MakeEngine:
    """Engines over the models of the test's folder."""

    def make(model: str = "", device: Device = CPU, folder: Path = tmp_path, **options: int) -> TfliteInference:
        return TfliteInference(
            model, device, find=find_in(folder), library="none.so", hang_s=20, trace_file=tmp_path / "hang", **options
        )

    return make


def test_a_name_means_the_file_that_fits_the_device(tmp_path: Path) -> None:
    """A CPU gets the plain file and an Edge TPU the compiled one; parts of pipelines are no models of their own."""
    tiny_tflite.chain(tmp_path / "both.tflite")
    tiny_tflite.compiled(tmp_path / "both_edgetpu.tflite")
    tiny_tflite.compiled(tmp_path / "only_edgetpu.tflite")
    tiny_tflite.segments(tmp_path, "cut")
    assert known_models(tmp_path) == ["both", "only"]
    assert [asked_as(name) for name in ("both", "both_edgetpu", "cut_segment_0_of_3_edgetpu")] == [
        "both",
        "both",
        "cut",
    ]
    assert model_file(tmp_path, "both", compiled=False).name == "both.tflite"
    assert model_file(tmp_path, "both", compiled=True).name == "both_edgetpu.tflite"
    with pytest.raises(EngineRefused, match=r"only_edgetpu.tflite is compiled for an Edge TPU .* put only.tflite"):
        model_file(tmp_path, "only", compiled=False)
    with pytest.raises(EngineRefused, match="there are: both, only"):
        model_file(tmp_path, "absent", compiled=False)
    for name in ("../both", "", ".hidden", "a/b", "x" * 129, "both\n"):
        with pytest.raises(EngineRefused, match="no model's name"):
            model_file(tmp_path, name, compiled=False)


def test_labels_stand_beside_the_model_or_inside_it(tmp_path: Path) -> None:
    """A text file wins over the file's metadata; numbered lines say which class they name; without either, none."""
    path = tiny_tflite.chain(tmp_path / "m.tflite")
    assert labels_of(path) == ()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "not these")
        archive.writestr("labels.txt", "cat\ndog\n")
    assert labels_of(path) == ("cat", "dog")
    (tmp_path / "m.txt").write_text("0  cat\n2: owl\n", encoding="utf-8")
    assert labels_of(path) == ("cat", "", "owl")
    (tmp_path / "m.txt").write_text("1920s\n2001 a space\n", encoding="utf-8")
    assert labels_of(path) == ("1920s", "2001 a space")


def test_values_are_quantised_and_back() -> None:
    """float32 for a quantised model becomes the numbers that stand for it, clipped; outputs can be given as values."""
    sent = InputTensor(data=np.array([0, 1, 1000, np.nan], "<f4").tobytes(), dtype="float32", shape=[2, 2])
    assert read_inputs(FACTS, [[sent]])[0][0].reshape(-1).tolist() == [10, 12, 255, 10]
    numbers = np.array([[-4, 0, 4]], np.int8)
    plain, floats = write_outputs(FACTS, [numbers], floats=False)[0], write_outputs(FACTS, [numbers], floats=True)[0]
    assert (plain.dtype, plain.scale, plain.zero_point, plain.data) == ("int8", 0.25, -4, numbers.tobytes())
    assert (floats.dtype, floats.scale, floats.shape) == ("float32", 0.0, [1, 3])
    assert np.frombuffer(floats.data, "<f4").tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([], "Input 0 has 0 tensors; m reads 1: 'input' (uint8 [1, 2, 2])"),
        ([InputTensor(data=b"1234", name="other")], "has no tensor 'input'"),
        ([InputTensor(data=b"12345")], "5 bytes do not fit 'input' (uint8 [1, 2, 2]): 4 are needed"),
        ([InputTensor(data=b"1234", shape=[4, 1])], "shape [4, 1] does not fit"),
        ([InputTensor(data=b"1234", dtype="int64")], "dtype 'int64' does not fit"),
    ],
)
def test_tensors_that_do_not_fit(tensors: list[InputTensor], says: str) -> None:
    """The refusal names the input, the tensor and what was expected."""
    with pytest.raises(EngineRefused) as refused:
        read_inputs(FACTS, [tensors])
    assert says in str(refused.value)


def picture(kind: str, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> bytes:
    """A picture file."""
    file = io.BytesIO()
    Image.new(mode, size, 200 if mode == "L" else None).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_pictures_become_what_the_model_reads(kind: str) -> None:
    """Five formats, resized, in colour or grey, as bytes, signed bytes or numbers from -1 to 1."""
    for shape, dtype in (((1, 8, 8, 3), "uint8"), ((1, 8, 8, 1), "int8"), ((1, 28, 28), "float32")):
        made = as_input(picture(kind), TensorSpec("t", shape, dtype), "Picture 0")
        assert (made.shape, made.dtype.name) == (shape, dtype)
        assert made.min() == {"uint8": 0, "int8": -128, "float32": -1.0}[dtype], "black"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GIF89a", "cannot be read as a picture"),
        (b"%PDF-1.7", "cannot be read"),
        (picture("PNG")[:-30], "cannot be read"),
    ],
)
def test_what_is_no_picture(data: bytes, says: str) -> None:
    """Cut off, or another kind of file."""
    with pytest.raises(EngineRefused, match=says):
        as_input(data, TensorSpec("t", (1, 8, 8, 3), "uint8"), "Picture 0")


def test_a_picture_of_too_many_pixels_is_not_decoded() -> None:
    """A small file can stand for a huge picture."""
    file = picture("PNG", (30_000, 2_000), "1")
    with pytest.raises(EngineRefused, match="30000 x 2000 pixels"):
        as_input(file, TensorSpec("t", (1, 8, 8, 3), "uint8"), "Picture 0")


def test_only_a_classifier_gives_labels() -> None:
    """A model that reads or writes something else is asked with tensors; classes without a name are numbers."""
    scores = TensorSpec("scores", (1, 3), "uint8", 1 / 256)
    facts = ModelFacts(name="m", inputs=(TensorSpec("t", (1, 8, 8, 3), "uint8"),), outputs=(scores,), labels=("a", "b"))
    check_classifier(facts)
    best = best_labels(facts, np.array([[0, 64, 128]], np.uint8), 2)
    assert [(one.label, one.index, one.score) for one in best] == [("2", 2, 0.5), ("b", 1, 0.25)]
    boxes = TensorSpec("boxes", (1, 20, 4), "float32")
    with pytest.raises(EngineRefused, match=r"no classifier of pictures.*writes 'boxes' \(float32 \[1, 20, 4\]\)"):
        check_classifier(ModelFacts(name="m", inputs=facts.inputs, outputs=(boxes,)))


def test_models_stay_loaded_within_bounds(tmp_path: Path, make_engine: MakeEngine) -> None:
    """The least used leaves when there are too many or too large; a file that was replaced is loaded anew."""
    for name in ("a", "b", "c"):
        tiny_tflite.chain(tmp_path / f"{name}.tflite")
    engine = make_engine("a", models_max=2)
    engine.load(lambda share, note: None)
    for name in ("b", "a", "c"):
        engine.describe(name)
    assert engine.resident() == ["a", "c"]
    steps = engine.steps()
    engine.describe("c")
    assert engine.steps() == steps, "it was there"
    tiny_tflite.chain(tmp_path / "c.tflite", width=8)
    assert engine.describe("c").inputs[0].shape == (1, 8)
    assert engine.resident() == ["a", "c"]
    engine.close()
    pools_own = make_engine("a", models_max=2)
    pools_own.load(lambda share, note: None)
    for name in ("b", "c"):
        pools_own.describe(name)
    assert pools_own.resident() == ["a", "c"], "what the pool was given stays"
    assert (pools_own.drop("c"), pools_own.drop("c"), pools_own.drop("a")) == (True, False, False)
    assert pools_own.resident() == ["a"]
    pools_own.close()
    small = make_engine(bytes_max=(tmp_path / "a.tflite").stat().st_size + 100)
    small.load(lambda share, note: None)
    small.describe("a")
    small.describe("b")
    assert small.resident() == ["b"]
    small.close()


def test_an_engine_says_why_it_cannot(tmp_path: Path, make_engine: MakeEngine) -> None:
    """A damaged file, a library that is not there, a stop, an engine that was closed."""
    (tmp_path / "bad.tflite").write_bytes(b"no model at all")
    (tmp_path / "empty.tflite").touch()
    tiny_tflite.chain(tmp_path / "good.tflite")
    engine = make_engine()
    engine.load(lambda share, note: None)
    for name in ("bad", "empty"):
        with pytest.raises(EngineError, match=f"{name}.tflite"):
            engine.describe(name)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        engine.infer("good", [[np.zeros((1, tiny_tflite.WIDTH), np.float32)]], stop)
    engine.close()
    tpu = make_engine(device=Device("usb:3", "edgetpu", 3))
    with pytest.raises(EngineError, match=r"usb:3 needs the library none.so.*REEF_EDGETPU_LIBRARY"):
        tpu.load(lambda share, note: None)
    tpu.close()


def test_a_real_model_names_what_it_sees(tmp_path: Path, make_engine: MakeEngine) -> None:
    """MobileNet v2 over photographs of a hot dog and a cat, with the labels of ImageNet."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "net.tflite").symlink_to(coral("mobilenet_v2_1.0_224_quant.tflite"))
    (folder / "net.txt").symlink_to(coral("imagenet_labels.txt"))
    engine = make_engine("net", folder=folder)
    engine.load(lambda share, note: None)
    facts = engine.describe("net")
    check_classifier(facts)
    given = [[as_input(coral(name).read_bytes(), facts.inputs[0], name)] for name in ("hot_dog.jpg", "cat.bmp")]
    found = engine.infer("net", given, threading.Event())
    engine.close()
    names = [best_labels(facts, one[0], 3) for one in found]
    assert names[0][0].label.startswith("hotdog")
    assert "cat" in " ".join(one.label for one in names[1])


def test_a_simulated_device_says_so_and_keeps_its_pace() -> None:
    """Labels that say what they are, one answer to one question, faults on command, a pace that is checked."""
    engine = SimulatedInference("simulated:invoke_ms=5")
    facts = engine.describe("any")
    assert all(label.startswith("simulated") for label in facts.labels)
    black = np.zeros(facts.inputs[0].shape, np.uint8)
    found = engine.infer("any", [[black], [black + 1], [black]], threading.Event())
    assert found[0][0].shape == facts.outputs[0].shape
    assert (found[0][0] == found[2][0]).all()
    assert (found[0][0] != found[1][0]).any()
    assert engine.steps() == 3
    command = np.frombuffer(b"!fail".ljust(black.size), np.uint8).reshape(black.shape)
    with pytest.raises(EngineError, match="as it was told to"):
        engine.infer("any", [[command]], threading.Event())
    with pytest.raises(EngineError, match="understands invoke_ms=N"):
        SimulatedInference("simulated:fast")
    engine.close()
