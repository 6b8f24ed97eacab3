"""Which .tflite file a name means, and the names of a model's classes. Loads no model.

models/NAME.tflite                           for CPU cores
models/NAME_edgetpu.tflite                   the same model out of Google's edgetpu_compiler, for an Edge TPU
models/NAME_segment_0_of_2[_edgetpu].tflite  a part of a pipeline (workers/pipeline)
models/NAME.txt                              its labels, one a line; else those inside the file
"""

from __future__ import annotations

import mmap
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from reef.models.tflite import COMPILED_SUFFIX, EDGE_TPU_OPERATOR, SEGMENT, asked_as
from reef.ports import EngineError, EngineRefused

CUSTOM_OPERATOR = EDGE_TPU_OPERATOR.encode()
LABELS_BYTES_MAX = 4 << 20
LISTED_MAX = 20
"""Names of models in an error message."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

FindModel = Callable[[str, bool], Path]
"""From a model's name, and whether an Edge TPU is to run it, to its file. Raises EngineRefused."""


def find_in(folder: Path) -> FindModel:
    """Finds the models of a folder."""
    return lambda name, compiled: model_file(folder, name, compiled=compiled)


def model_file(folder: Path, name: str, *, compiled: bool) -> Path:
    """The file of that model, `compiled` for an Edge TPU or not. Raises EngineRefused saying which there are."""
    check_name(name)
    endings = (COMPILED_SUFFIX, "") if compiled else ("", COMPILED_SUFFIX)
    found = next((path for end in endings if (path := folder / f"{name}{end}.tflite").is_file()), None)
    if found is None:
        raise EngineRefused(f"There is no model {name!r} in {folder}; there are: {_listed(folder)}.")
    if is_compiled(found) and not compiled:
        raise EngineRefused(
            f"{found.name} is compiled for an Edge TPU and this device is none: put {name}.tflite beside it."
        )
    if compiled and not is_compiled(found):
        raise EngineRefused(
            f"{found.name} is not compiled for an Edge TPU, which would leave it idle: run edgetpu_compiler on it and "
            f"put {name}{COMPILED_SUFFIX}.tflite beside it, or ask a pool with a CPU."
        )
    return found


def segment_files(folder: Path, name: str, count: int, *, compiled: bool) -> list[Path]:
    """The parts of a model that was cut into so many, in order. Raises EngineError saying which are missing."""
    check_name(name)
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(f"{name}_segment_*_of_{count}*.tflite")):
        match = SEGMENT.fullmatch(path.stem.removeprefix(name))
        if match is None or int(match["count"]) != count or is_compiled(path) > compiled:
            continue
        # on an Edge TPU a part of which the compiler could make nothing has no compiled form
        if compiled and is_compiled(path):
            found[int(match["number"])] = path
        else:
            found.setdefault(int(match["number"]), path)
    missing = [str(number) for number in range(count) if number not in found]
    if missing:
        kind = "compiled " if compiled else ""
        raise EngineError(
            f"{folder} has not all {kind}segments of {name} in {count}: {', '.join(missing)} missing, "
            f"as {name}_segment_{missing[0]}_of_{count}{COMPILED_SUFFIX if compiled else ''}.tflite."
        )
    return [found[number] for number in range(count)]


def check_name(name: str) -> None:
    """Raises EngineRefused where this can be no model's name."""
    if not _NAME.fullmatch(name):
        raise EngineRefused(f"{name[:140]!r} is no model's name: letters, digits, dots, - and _, 128 at most.")


def known_models(folder: Path) -> list[str]:
    """Names of the models that are in this folder, parts of pipelines left out."""
    stems = {path.stem for path in folder.glob("[!.]*.tflite")}
    return sorted({asked_as(stem) for stem in stems if not SEGMENT.search(stem)})


def is_compiled(path: Path) -> bool:
    """Whether a file holds work for an Edge TPU. Raises EngineError where it cannot be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(CUSTOM_OPERATOR) >= 0
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise EngineError(f"{path} cannot be read ({error}); put the model there again.") from error


def labels_of(path: Path) -> tuple[str, ...]:
    """Names of a model's classes: from the text file beside it, else from its own metadata; empty without either."""
    beside = path.with_name(f"{path.stem.removesuffix(COMPILED_SUFFIX)}.txt")
    if beside.is_file() and beside.stat().st_size <= LABELS_BYTES_MAX:
        return _labels(beside.read_text(encoding="utf-8", errors="replace"))
    if not zipfile.is_zipfile(path):  # files that belong to a TFLite model are a zip archive at its end
        return ()
    with zipfile.ZipFile(path) as archive:
        texts = [one for one in archive.infolist() if one.filename.endswith(".txt")]
        named = next((one for one in texts if "label" in one.filename.lower()), texts[0] if texts else None)
        if named is None or named.file_size > LABELS_BYTES_MAX:
            return ()
        return _labels(archive.read(named).decode("utf-8", errors="replace"))


def _labels(text: str) -> tuple[str, ...]:
    """A label a line; lines that all begin with a number say by it which class they name."""
    lines = [line.strip() for line in text.strip().splitlines()]
    numbered = [re.match(r"(\d{1,6})[\s:]+(\S.*)$", line) for line in lines]
    if not lines or not all(numbered):
        return tuple(lines)
    by_number = {int(match[1]): match[2] for match in numbered if match}
    if max(by_number) > 2 * len(lines) + 1000:  # years or codes, not numbers of classes
        return tuple(lines)
    return tuple(by_number.get(number, "") for number in range(max(by_number) + 1))


def _listed(folder: Path) -> str:
    names = known_models(folder)
    more = f" and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else ""
    return ", ".join(names[:LISTED_MAX]) + more if names else "none"
