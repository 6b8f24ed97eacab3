"""Models a plan can be made for: the specification's table, any other size, the ones we ship, those of the catalogue,
any .gguf or .tflite file by its head.

Never loads a model: a file is asked for the number of its parameters and bytes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from reef.models import ModelError
from reef.models.catalogue import CatalogueEntry, load_catalogue
from reef.models.gguf import read_head
from reef.models.tflite import read_tflite

Role = Literal["decoder", "encoder", "graph"]
"""Writes tokens; makes one vector of a text; anything else that is computed once for each input."""

BYTES_PER_PARAMETER = 0.73
"""Of four-bit .gguf files, as in the catalogue: 98 MB for 134.5 M parameters, 1,117 MB for 1.54 G."""
PARAMETERS_MIN, PARAMETERS_MAX = 1e6, 1e13
"""Of a model that is given by its size alone."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)b")
_ENCODERS = ("bert", "nomic-bert", "jina-bert-v2", "t5encoder")


class PlannedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What the formulas need to know of a model."""

    name: str
    parameters: float
    """Used in every pass: without an encoder's word table, which is looked up, not multiplied."""
    role: Role = "decoder"
    file_bytes: float = 0.0
    """0: not a file; four bits a parameter are assumed where one would be used."""
    compiled_bytes: float = 0.0
    """Of a file the Edge TPU compiler made: its weights are in there as the compiler left them."""
    spec_devices: int = 0
    """Devices the specification gives one copy; 0: it does not speak of this model."""
    note: str = ""

    @property
    def weight_bytes(self) -> float:
        """On an Edge TPU, which computes in int8 only."""
        return self.compiled_bytes or self.parameters

    @property
    def stored_bytes(self) -> float:
        """Where an engine reads the file as it is."""
        return self.file_bytes or self.parameters * BYTES_PER_PARAMETER


SPECIFICATION = (
    PlannedModel(name="1B", parameters=1e9, spec_devices=1),
    PlannedModel(name="4B", parameters=4e9, spec_devices=4),
    PlannedModel(name="7B", parameters=7e9, spec_devices=8),
    PlannedModel(name="13B", parameters=13e9, spec_devices=16),
    PlannedModel(name="27B", parameters=27e9, spec_devices=32),
)
"""Table "Supported Model Configurations" of the specification."""

SMOLLM2 = PlannedModel(
    name="SmolLM2-135M", parameters=134.5e6, file_bytes=98_362_432, note="what `make run` starts with"
)
MINILM = PlannedModel(name="MiniLM-L6", parameters=10.6e6, role="encoder", note="what documents are embedded with")
E5_LARGE = PlannedModel(name="E5-large", parameters=303e6, role="encoder", note="the specification's embedding model")
KNOWN = {model.name.lower(): model for model in (*SPECIFICATION, SMOLLM2, MINILM, E5_LARGE)}
DEFAULT = (SMOLLM2, *SPECIFICATION)
ALIASES = {"smollm2-135m-instruct": "smollm2-135m", "all-minilm-l6-v2": "minilm-l6", "minilm": "minilm-l6"}


class UnknownModel(ValueError):
    """The text names neither a model of the table nor a file."""


def find_model(text: str, folders: tuple[Path, ...] = ()) -> PlannedModel:
    """A model of the table, a size (`1.5B`), a .gguf or .tflite file by its path or by its name in one of these
    folders, or a model of the catalogue that is not here.

    Raises UnknownModel; ModelError for a file that cannot be read.
    """
    known = KNOWN.get(ALIASES.get(text.lower(), text.lower()))
    if known is not None:
        return known
    for path in (Path(text), *(folder / f"{text}.gguf" for folder in folders)):
        if path.is_file():
            return read_model(path)
    if size := _SIZE.fullmatch(text.lower()):
        return _of_size(text, float(size[1]) * 1e9)
    catalogue = load_catalogue()
    if text in catalogue:
        return _of_catalogue(catalogue[text])
    names = ", ".join([model.name for model in KNOWN.values()] + list(catalogue))
    raise UnknownModel(
        f"{text!r} is neither a file nor one of {names}. Give one of these, a size such as 1.5B, or a .gguf or .tflite "
        "file."
    )


def _of_size(text: str, parameters: float) -> PlannedModel:
    """A model of which nothing else is known. Raises UnknownModel."""
    if not PARAMETERS_MIN <= parameters <= PARAMETERS_MAX:
        raise UnknownModel(
            f"{text!r} is no size of a model that can be planned: give a number of billions of parameters from "
            f"{PARAMETERS_MIN / 1e9:g}B to {PARAMETERS_MAX / 1e9:,.0f}B, such as 1.5B."
        )
    alike = next((model for model in SPECIFICATION if model.parameters == parameters), None)
    return alike or PlannedModel(name=f"{parameters / 1e9:g}B", parameters=parameters)


def _of_catalogue(entry: CatalogueEntry) -> PlannedModel:
    """A model that is not on this machine, by what the catalogue knows of it."""
    size = float(entry.size_shown_bytes)
    return PlannedModel(
        name=entry.name, parameters=float(entry.parameters or size / BYTES_PER_PARAMETER), file_bytes=size
    )


def read_model(path: Path) -> PlannedModel:
    """What a file says about itself. Raises ModelError."""
    if path.suffix == ".tflite":
        tflite = read_tflite(path)
        return PlannedModel(
            name=path.stem,
            parameters=float(tflite.parameters),
            role="graph",
            file_bytes=float(path.stat().st_size),
            compiled_bytes=float(path.stat().st_size) if tflite.compiled else 0.0,
            note="compiled for the Edge TPU" if tflite.compiled else "not compiled for the Edge TPU",
        )
    if path.suffix != ".gguf":
        raise ModelError(f"{path} is neither a .gguf nor a .tflite file.")
    head = read_head(path, lambda key: key.startswith("general."))
    role: Role = "encoder" if head.architecture in _ENCODERS else "decoder"
    size = float(path.stat().st_size)
    return PlannedModel(name=path.stem, parameters=float(head.parameters), role=role, file_bytes=size)
