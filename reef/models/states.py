"""The list of models for a person: the catalogue, what is on disk, what is in memory where, what is on its way.

Made from the registry, the workers' reports and the jobs that fetch; reads no model file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from reef.contracts.jobs import FetchModelJob
from reef.contracts.nodes import NodeReport
from reef.models.adapters import parts_of
from reef.models.catalogue import CatalogueEntry
from reef.models.fitting import EMBED_POOL, FORMATS, pools_for
from reef.models.keeping import Keeping
from reef.models.parts import Arrived
from reef.models.registry import ModelRecord
from reef.models.serving import loaded_names
from reef.models.tflite import COMPILED_SUFFIX
from reef.topology import Topology

NO_MODEL_ENGINES = ("parser", "hands")
"""What these report as a model is the name of a library, or nothing."""

State = Literal["READY", "CACHED", "LOADING", "PARTIAL", "FAILED", "AVAILABLE"]


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the reef knows it.

    READY: in the memory of the devices `where`. CACHED: on disk. LOADING: being fetched, or loaded by `loading_on`.
    PARTIAL: the beginning is on disk, `size_bytes` of it, and nobody fetches the rest. FAILED: `error` says why.
    AVAILABLE: in the catalogue, not on this machine.
    """

    name: str
    title: str
    about: str = ""
    format: str
    """gguf, tflite, onnx, encoder, lora; remote or simulated where no file of ours is behind it."""
    pools: list[str] = []
    """Pools that can be given it (`load`): their format, and a device that can serve them. Empty: none."""
    state: State
    where: list[str] = []
    loading_on: list[str] = []
    progress: float = 0.0
    """Of the fetching, or of the loading, 0..1."""
    note: str = ""
    error: str = ""
    size_bytes: int = 0
    quantisation: str = ""
    licence: str = ""
    sha256: str = ""
    source: str = ""
    base: str = ""
    """Of an adapter: what it was made for."""
    pinned: bool = False
    stays: str = ""
    """Why it cannot be taken from the disk now; empty where it can."""
    used_at: float | None = None


class CacheView(msgspec.Struct, frozen=True, kw_only=True):
    """The disk cache. `limit_bytes` 0: none."""

    used_bytes: int
    limit_bytes: int
    free_bytes: int


class ModelsView(msgspec.Struct, frozen=True, kw_only=True):
    """Every model there is."""

    models: list[ModelView]
    cache: CacheView


class _Sight(msgspec.Struct, frozen=True):
    """What was seen a moment ago."""

    loaded: dict[str, list[str]]
    loading: dict[str, list[NodeReport]]
    fetching: dict[str, FetchModelJob]
    arrived: dict[str, Arrived]
    kept: dict[str, str]


def overview(keeping: Keeping, fetching: Mapping[str, FetchModelJob], free_bytes: int) -> ModelsView:
    """Every model; `fetching` are the jobs that have not ended, by model."""
    records, reports = keeping.registry.refresh(), keeping.reports()
    loaded = loaded_names(reports)
    if loaded:
        keeping.registry.used(loaded)
    jobs = {part: job for job in fetching.values() for part in parts_of(job.model)}
    sight = _Sight(loaded, _loading(reports), jobs, keeping.store.parts.all(), keeping.stays(reports))
    catalogue = keeping.store.catalogue
    names = [*catalogue, *(name for name in sorted({*records, *jobs, *sight.arrived}) if name not in catalogue)]
    views = [_view(name, records.get(name), catalogue.get(name), sight) for name in names]
    views = [_with_pools(view, f"{view.name}{COMPILED_SUFFIX}" in records, keeping.topology) for view in views]
    views += _without_file({view.name for view in views}, reports)
    used = sum(record.size_bytes for record in records.values() if record.path and record.format != "encoder")
    used += sum(come.have_bytes for come in sight.arrived.values())
    cache = CacheView(used_bytes=used, limit_bytes=keeping.cache.limit_bytes, free_bytes=free_bytes)
    return ModelsView(models=views, cache=cache)


def _with_pools(view: ModelView, compiled_beside: bool, topology: Topology) -> ModelView:
    pools = pools_for(view.format, view.quantisation, compiled_beside, topology)
    return msgspec.structs.replace(view, pools=pools)


def _loading(reports: Mapping[str, NodeReport]) -> dict[str, list[NodeReport]]:
    found: dict[str, list[NodeReport]] = {}
    for report in reports.values():
        name = report.loading or (report.model if report.state == "loading" else "")
        for part in parts_of(name) if name else ():
            found.setdefault(part, []).append(report)
    return found


def _view(name: str, record: ModelRecord | None, entry: CatalogueEntry | None, sight: _Sight) -> ModelView:
    where, loading = sight.loaded.get(name, []), sight.loading.get(name, [])
    error = "" if record is None or where else record.error
    here = record is not None and bool(record.path)
    come = None if here else sight.arrived.get(name)
    fetching = not here and (name in sight.fetching or (come is not None and come.busy))
    state, progress, note = _state(record, error, where, loading, fetching)
    if come is not None:
        state = "PARTIAL" if state == "AVAILABLE" else state
        progress, note = _of_arrived(come, entry)
    size_bytes = come.have_bytes if come is not None and not fetching else record.size_bytes if record else 0
    return ModelView(
        name=name,
        title=entry.title if entry else name,
        about=entry.about if entry else "",
        format=record.format if record else entry.format if entry else come.suffix[1:] if come else "gguf",
        state=state,
        where=where,
        loading_on=sorted(report.node for report in loading),
        progress=round(progress, 4),
        note=note,
        error="" if fetching else error,
        size_bytes=size_bytes or (entry.size_shown_bytes if entry else 0),
        quantisation=record.quantisation if record else "",
        licence=(record.licence if record else "") or (entry.licence if entry else ""),
        sha256=(record.sha256 if record else "") or (entry.sha256 or "" if entry else ""),
        source=(record.source if record else "")
        or (come.url if come else "")
        or (str(entry.sources[0]) if entry else ""),
        base=record.base if record else "",
        pinned=bool(record and record.pinned),
        stays=sight.kept.get(name, "") if record and record.path else "",
        used_at=record.used_at if record and record.path else None,
    )


def _of_arrived(come: Arrived, entry: CatalogueEntry | None) -> tuple[float, str]:
    """How far a model is that is not whole: the share, and words."""
    total = come.size_bytes or (entry.size_shown_bytes if entry else 0)
    if not total:
        return 0.0, f"{come.have_bytes / 1e6:.0f} MB have come"
    return min(1.0, come.have_bytes / total), f"{come.have_bytes / 1e6:.0f} of {total / 1e6:.0f} MB have come"


def _state(
    record: ModelRecord | None, error: str, where: list[str], loading: list[NodeReport], fetching: bool
) -> tuple[State, float, str]:
    if where:
        return "READY", 1.0, ""
    if fetching:
        return "LOADING", 0.0, "waits to be fetched"
    if loading:
        first = loading[0]
        return "LOADING", first.progress, first.note
    if error:
        return "FAILED", 0.0, ""
    if record is not None and record.path:
        return "CACHED", 0.0, ""
    return "AVAILABLE", 0.0, ""


def _without_file(known: set[str], reports: Mapping[str, NodeReport]) -> list[ModelView]:
    """Models in memory that are no files of ours: of remote servers, of simulated devices, on other hosts."""
    found: dict[str, ModelView] = {}
    for report in sorted(reports.values(), key=lambda report: report.node):
        if report.engine in NO_MODEL_ENGINES:
            continue
        for name in {report.model, *report.resident} if report.state in ("ready", "draining") else ():
            if not name or set(parts_of(name)) <= known:
                continue
            before = found.get(name)
            where = [*(before.where if before else ()), report.node]
            pools = {*(before.pools if before else ()), *([report.pool] if report.pool in FORMATS else ())}
            found[name] = ModelView(
                name=name,
                title=name,
                format=_form(report),
                pools=sorted(pools),
                state="READY",
                where=where,
                progress=1.0,
            )
    return list(found.values())


def _form(report: NodeReport) -> str:
    """What kind of model a device holds, as far as its report tells."""
    if report.kind in ("remote", "simulated"):
        return report.kind
    if report.pool == EMBED_POOL:
        return "encoder"
    return "tflite" if report.engine == "tflite" else "gguf"
