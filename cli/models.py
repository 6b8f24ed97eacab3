"""`coral-reef models`: the catalogue and what is on disk; and the look for a model before a worker is started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import click

from cli.errors import Problem
from cli.options import data_dir_option, settings_with
from cli.show import Show, plain_console, size, table
from reef.contracts.jobs import ChatJob
from reef.models import ModelError, ModelFile, ModelMissing, ModelState, ModelStore
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
    """List the catalogue and your own .gguf files."""
    rows = table("name", "title", ">size", "licence", ">context", "on this machine")
    store = ModelStore(settings_with(data_dir=data_dir).data_dir)
    for state in store.list():
        rows.add_row(*_row(state))
    console = plain_console()
    console.print(rows)
    console.print("\nFetch one: coral-reef models pull NAME    Use it: make run MODEL=NAME (or a path to a .gguf file)")


@models.command("pull")
@click.argument("name")
@data_dir_option
def pull(name: str, data_dir: object) -> None:
    """Fetch a model: a NAME of the catalogue, or the URL of a .gguf file. Goes on where it was interrupted."""
    store = ModelStore(settings_with(data_dir=data_dir).data_dir)
    with Show() as show:
        model = _pull(store, name, show)
        show.line(f"  Use it: make run MODEL={model.name}")


def ensure_models(settings: Settings, pools: Sequence[Pool], show: Show) -> None:
    """Fetch the models that the devices of these pools load and that are not here yet. Raises Problem."""
    store = ModelStore(settings.data_dir)
    for name in _wanted(pools):
        try:
            store.resolve(name)
        except ModelMissing as error:
            entry = store.catalogue.get(name)
            if entry is None:
                raise Problem(str(error)) from None
            show.line(f"Fetching the model {entry.title} ({size(entry.size_shown_bytes)}, {entry.licence}) ...")
            _pull(store, name, show)
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


def _pull(store: ModelStore, name: str, show: Show) -> ModelFile:
    last = ""

    def progress(share: float, note: str) -> None:
        nonlocal last
        last = note
        show.progress(name, share, note)

    try:
        model = store.pull(name, progress)
    except ModelError as error:
        raise Problem(str(error)) from None
    show.done(name, last)
    return model


def _row(state: ModelState) -> tuple[str, ...]:
    entry = state.entry
    if entry is None:
        return state.name, "your own file", size(state.size_bytes), "", "", str(state.path)
    title = f"{entry.title} (demo)" if entry.demo else entry.title
    here = "yes" if state.path else "no"
    return state.name, title, size(state.size_bytes), entry.licence, f"{entry.context}", here
