"""`coral-reef models`: the catalogue and what is on disk; and the look for a model before a worker is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from cli.errors import Problem
from cli.local_models import LocalModels
from cli.options import data_dir_option, settings_with
from cli.show import Show, plain_console, size, table
from reef.contracts.jobs import ChatJob
from reef.models import ModelError, ModelFile, ModelMissing, ModelStore
from reef.models.adapters import split_name
from reef.models.licences import licence_of
from reef.models.parts import Arrived
from reef.settings import Settings
from reef.topology import Pool

ENGINES_WITH_FILES = ("auto", "openvino", "llama")
DEVICES_WITH_FILES = ("cpu", "cuda", "edgetpu")


@click.group()
def models() -> None:
    """Models: what there is, and fetching it."""


@models.command("list")
@data_dir_option
def list_models(data_dir: object) -> None:
    """List the catalogue and your own files.

    READY: in a device's memory; CACHED: on disk; PARTIAL: the beginning is on disk, `models pull` goes on with it.
    """
    local = LocalModels(settings_with(data_dir=data_dir))
    rows = table("name", "title", "format", ">size", "licence", "state", "")
    running = local.states()
    for row in _rows_of(local.store, running) if running is not None else _rows_alone(local):
        rows.add_row(*row)
    console = plain_console()
    console.print(rows)
    console.print("\nFetch one: coral-reef models pull NAME    Use it: make run MODEL=NAME (or a path to a .gguf file)")


@models.command("pull")
@click.argument("name")
@click.option("--url", default="", help="Fetch it from this address, under NAME.")
@click.option("--sha256", default="", help="What its SHA-256 must be.")
@data_dir_option
def pull(name: str, url: str, sha256: str, data_dir: object) -> None:
    """Fetch a model: a NAME of the catalogue, or the URL of a file. Goes on where it was interrupted."""
    local = LocalModels(settings_with(data_dir=data_dir))
    with Show() as show:
        model = _pull(local, name, show, url=url, sha256=sha256)
        show.line(f"  Use it: make run MODEL={model.name}")


@models.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", default="", help="Its name here; without it the file's.")
@click.option("--sha256", default="", help="What its SHA-256 must be.")
@click.option("--link", is_flag=True, help="A hard link instead of a copy: takes no room, on the same disk only.")
@data_dir_option
def import_file(file: Path, name: str, sha256: str, link: bool, data_dir: object) -> None:
    """Make a FILE of this machine (.gguf, .tflite, .onnx, an adapter) one of the reef's models."""
    local = LocalModels(settings_with(data_dir=data_dir))
    with Show() as show:
        label = name or file.stem
        note = ""

        def progress(share: float, said: str) -> None:
            nonlocal note
            note = said
            show.progress(label, share, said)

        try:
            model = local.store.take_file(
                file, progress, name=name, sha256=sha256, link=link, make_room=local.make_room()
            )
        except ModelError as error:
            raise Problem(str(error)) from None
        local.note_fetched(model.name, str(file.absolute()))
        show.done(label, note)
        _tell_removed(local, show)


@models.command("remove")
@click.argument("name")
@data_dir_option
def remove(name: str, data_dir: object) -> None:
    """Take a model from the disk, or the beginning of one.

    Refused while it is loaded, pinned, named in queues.yaml or being fetched.
    """
    LocalModels(settings_with(data_dir=data_dir)).remove(name)
    click.echo(f"{name} is removed.")


@models.command("pin")
@click.argument("name")
@click.option("--off", is_flag=True, help="Let it go again when room is needed.")
@data_dir_option
def pin(name: str, off: bool, data_dir: object) -> None:
    """Keep a model on disk, whatever else needs room (REEF_MODEL_CACHE_BYTES)."""
    LocalModels(settings_with(data_dir=data_dir)).pin(name, pinned=not off)
    click.echo(f"{name} may go when room is needed." if off else f"{name} stays.")


def ensure_models(settings: Settings, pools: Sequence[Pool], show: Show) -> None:
    """Fetch the models that the devices of these pools load and that are not here yet. Raises Problem."""
    local = LocalModels(settings, alone=True)
    store = local.store
    for name in _wanted(pools):
        try:
            store.resolve(name)
        except ModelMissing as error:
            entry = store.catalogue.get(split_name(name)[0])
            if entry is None:
                raise Problem(str(error)) from None
            show.line(f"Fetching the model {entry.title} ({size(entry.size_shown_bytes)}, {entry.licence}) ...")
            _pull(local, entry.name, show)
            _check(store, name)
        except ModelError as error:
            raise Problem(str(error), "Choose another one with --model; coral-reef models list shows them.") from None


def check_model(settings: Settings, pools: Sequence[Pool]) -> tuple[Literal["good", "warning", "bad"], str, str]:
    """For `doctor`: a verdict on the models of these pools, what was found, and what to do."""
    store = ModelStore(settings.data_dir)
    texts = []
    for name in _wanted(pools):
        try:
            model = store.resolve(name)
        except ModelMissing as error:
            entry = store.catalogue.get(name)
            if entry is None:
                return "bad", str(error), "coral-reef models list shows what can be fetched."
            texts.append(f"{name} ({size(entry.size_shown_bytes)}) is fetched at the next start")
            continue
        except ModelError as error:
            return "bad", str(error), f"Fetch it again: delete the file, then coral-reef models pull {name}"
        expected = store.catalogue[name].sha256 if name in store.catalogue else None
        if expected not in (None, model.sha256):
            advice = f"rm {model.path} && coral-reef models pull {name}"
            return "bad", f"{model.path} is damaged: its SHA-256 is {model.sha256}, not {expected}", advice
        checked = "SHA-256 is right" if expected else "no SHA-256 known"
        texts.append(f"{model.title} ({size(model.size_bytes)}), {checked}")
    return "good", "; ".join(texts) or "no device here loads a model file", ""


def _wanted(pools: Sequence[Pool]) -> list[str]:
    """Names or paths of the model files that these pools' devices load, each once."""
    names = [
        pool.model
        for pool in pools
        if pool.name == ChatJob.POOL  # the embedding library fetches its own
        and pool.model
        and pool.engine in ENGINES_WITH_FILES
        and any(device.kind in DEVICES_WITH_FILES for device in pool.devices)
    ]
    return list(dict.fromkeys(names))


def _check(store: ModelStore, name: str) -> None:
    """Raises Problem where a part of this model (an adapter) is still missing."""
    try:
        store.resolve(name)
    except ModelError as error:
        raise Problem(str(error)) from None


def _pull(local: LocalModels, name: str, show: Show, *, url: str = "", sha256: str = "") -> ModelFile:
    last = ""

    def progress(share: float, note: str) -> None:
        nonlocal last
        last = note
        show.progress(name, share, note)

    try:
        model = local.store.pull(name, progress, url=url, sha256=sha256, make_room=local.make_room())
    except ModelError as error:
        raise Problem(str(error)) from None
    local.note_fetched(model.name, url or name)
    show.done(name, last)
    _tell_removed(local, show)
    return model


def _tell_removed(local: LocalModels, show: Show) -> None:
    for one in local.removed:
        why = "nobody fetched the rest" if one.partial else "it was unused for the longest time"
        show.line(f"  {one.name} ({size(one.size_bytes)}) was removed: room was needed, {why}")


def _title(store: ModelStore, name: str, otherwise: str) -> str:
    """What the catalogue calls it, the same whether a reef runs or not."""
    entry = store.catalogue.get(name)
    if entry is None:
        return otherwise
    return f"{entry.title} (demo)" if entry.demo else entry.title


def _rows_of(store: ModelStore, states: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """As the running reef tells it."""
    rows: list[tuple[str, ...]] = []
    for one in states:
        note = ", ".join(one["where"]) or one["error"] or one["note"]
        title = _title(store, one["name"], one["title"])
        said = (one["name"], title, one["format"], size(one["size_bytes"]), one["licence"], one["state"])
        rows.append((*said, note + (" (pinned)" if one["pinned"] else "")))
    return rows


def _rows_alone(local: LocalModels) -> list[tuple[str, ...]]:
    """As the disk tells it; nothing is in memory."""
    records, parts = local.records(), local.store.parts.all()
    rows: list[tuple[str, ...]] = []
    for state in local.store.list():
        if state.path is None and state.name in parts:
            continue
        entry, record = state.entry, records.get(state.name)
        title = _title(local.store, state.name, "your own file")
        form: str = entry.format if entry else ""
        licence = entry.licence if entry else ""
        note, here = "", "CACHED" if state.path else "AVAILABLE"
        if state.path:
            try:
                facts = local.store.facts(state.path)
                form, licence = facts.format, licence or facts.licence
                note = facts.quantisation
            except ModelError as error:
                here, note = "FAILED", str(error)
        pinned = " (pinned)" if record and record.pinned else ""
        rows.append((state.name, title, form, size(state.size_bytes), licence, here, note + pinned))
    rows += [_row_of_encoder(name, folder) for name, folder in local.store.encoders().items()]
    return rows + [_row_begun(local, name, part) for name, part in parts.items() if name not in local.store.files()]


def _row_of_encoder(name: str, folder: Path) -> tuple[str, ...]:
    """What the embedding library has fetched."""
    whole = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return name, name, "encoder", size(whole), licence_of(folder), "CACHED", ""


def _row_begun(local: LocalModels, name: str, part: Arrived) -> tuple[str, ...]:
    """A model of which only the beginning is here."""
    entry = local.store.catalogue.get(name)
    whole = part.size_bytes or (entry.size_shown_bytes if entry else 0)
    note = f"of {size(whole)}" if whole else ""
    state = "LOADING" if part.busy else "PARTIAL"
    title, licence = (entry.title, entry.licence) if entry else ("your own file", "")
    return name, title, part.suffix[1:], size(part.have_bytes), licence, state, note
