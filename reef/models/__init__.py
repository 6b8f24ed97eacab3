"""Models on disk: which there are, fetching, checking and finding them. Never runs or imports a model's code."""

from __future__ import annotations

from reef.models.catalogue import CatalogueEntry, load_catalogue
from reef.models.errors import ModelError, ModelMissing
from reef.models.store import ModelFile, ModelState, ModelStore

__all__ = [
    "CatalogueEntry",
    "ModelError",
    "ModelFile",
    "ModelMissing",
    "ModelState",
    "ModelStore",
    "load_catalogue",
]
