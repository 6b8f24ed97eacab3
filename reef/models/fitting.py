"""Whether devices can serve a model: its name, whether it is here, its format, the pool and the kind of device.

Every way to give a device a model asks here: loading, an operator's decision over the API, and the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from reef.abilities import CHAT_POOL, engine_of, why_not
from reef.models.adapters import check_match, parts_of, split_name
from reef.models.errors import BadModelName, ModelError, ModelMissing
from reef.models.formats import SUFFIXES
from reef.models.store import ModelStore
from reef.models.tflite import COMPILED_QUANTISATION, COMPILED_SUFFIX
from reef.topology import Device, Pool, Topology

EMBED_POOL = "embed"
FORMATS = {CHAT_POOL: "gguf", "media": "tflite"}
"""Pools whose model can be exchanged while the reef runs, and the format that their engines read."""
WITHOUT_FILE = ("remote", "simulated")
"""Engines with no file of ours behind them."""


def needs_file(pool: Pool, devices: Iterable[Device]) -> bool:
    """Whether one of these devices loads its model from a file of ours."""
    return any(engine_of(pool.name, pool.engine, device.kind) not in WITHOUT_FILE for device in devices)


def check_format(form: str, pool: Pool) -> None:
    """Raises ModelError where a pool's engines cannot read a model of this format, or load none at all."""
    if pool.name == EMBED_POOL:
        raise ModelError(
            "The embedding model cannot be exchanged while the reef runs: the vectors of all documents belong to it. "
            "Change it in queues.yaml, start again, and index the documents anew."
        )
    if pool.name not in FORMATS:
        raise ModelError(f"Pool {pool.name} loads no models; {' and '.join(FORMATS)} do.")
    if form and form != FORMATS[pool.name]:
        raise ModelError(f"Pool {pool.name} serves models in {FORMATS[pool.name]} format; this one is {form}.")


def check_name(model: str, pool: Pool, devices: Iterable[Device]) -> None:
    """Raises BadModelName for what names no model, such as the path of a file."""
    engines = {engine_of(pool.name, pool.engine, device.kind) for device in devices}
    # another server's names may look like paths: organisation/model
    odd = PurePosixPath(model).is_absolute() or not {"..", "~"}.isdisjoint(PurePosixPath(model).parts)
    if odd or (engines != {"remote"} and ("/" in model or model.endswith(SUFFIXES))):
        raise BadModelName(
            f"{model!r}: here a model is a name, not a file. `coral-reef models import FILE` makes a file of this "
            "machine one."
        )
    try:
        split_name(model)
    except ModelError as error:
        raise BadModelName(str(error)) from None


def check_devices(pool: Pool, devices: Mapping[str, Device]) -> None:
    """Raises ModelError where one of these devices (by node) is of a kind that cannot serve the pool."""
    for node, device in devices.items():
        if reason := why_not(pool.name, pool.engine, device.kind):
            raise ModelError(f"{node}: {reason}")


def absent_parts(store: ModelStore, model: str, pool: Pool, source: str = "") -> list[str]:
    """The parts of a model that are not on this machine. Raises ModelMissing where nobody knows one of them.

    `source`: an address for the last part.
    """
    files = store.files()
    parts = parts_of(model)
    absent = [name for name in parts if not _files_of(name, pool, files)]
    for name in absent:
        if name not in store.catalogue and not (source and name == parts[-1]):
            raise ModelMissing(store.unknown(name))
    return absent


def check(store: ModelStore, model: str, pool: Pool, devices: Mapping[str, Device]) -> None:
    """Whether these devices (by node) can serve this model of this pool now.

    Raises BadModelName, ModelMissing, and ModelError where something does not fit.
    """
    check_name(model, pool, devices.values())
    check_devices(pool, devices)
    if model == pool.model:
        return
    if not needs_file(pool, devices.values()):
        check_format("", pool)
        return
    if absent := absent_parts(store, model, pool):
        raise ModelMissing(
            f"The model {absent[0]} is not on this machine. Fetch it with `coral-reef models pull {absent[0]}`, or "
            "load it (POST /api/v1/system/models/load), which fetches it first."
        )
    _check_files(store, model, pool, devices)


def _check_files(store: ModelStore, model: str, pool: Pool, devices: Mapping[str, Device]) -> None:
    base, *adapters = parts_of(model)
    files = store.files()
    found = _files_of(base, pool, files)
    facts = [store.facts(path) for path in found]
    for one in facts:
        check_format(one.format, pool)
    for name in adapters:
        check_match(store.facts(files[name]), files[name], facts[0], found[0])
    if FORMATS[pool.name] != "tflite":
        return
    compiled = {one.quantisation == COMPILED_QUANTISATION for one in facts}
    for node, device in devices.items():
        if engine_of(pool.name, pool.engine, device.kind) in WITHOUT_FILE:
            continue
        on_tpu = device.kind == "edgetpu"
        if on_tpu not in compiled:
            raise ModelError(_wrong_form(base, node, on_tpu=on_tpu))


def _wrong_form(name: str, node: str, *, on_tpu: bool) -> str:
    plain = name.removesuffix(COMPILED_SUFFIX)
    if on_tpu:
        return (
            f"{name} is not compiled for an Edge TPU, which {node} is: run edgetpu_compiler on it and put "
            f"{plain}{COMPILED_SUFFIX}.tflite beside it, or name other nodes."
        )
    return f"{name} is compiled for an Edge TPU, and {node} is none: put {plain}.tflite beside it, or name other nodes."


def _files_of(name: str, pool: Pool, files: Mapping[str, Path]) -> list[Path]:
    """The files that a name stands for: of a TFLite model also the one compiled for an Edge TPU."""
    names = [name, f"{name}{COMPILED_SUFFIX}"] if FORMATS.get(pool.name) == "tflite" else [name]
    return [files[one] for one in names if one in files]


def pools_for(form: str, quantisation: str, compiled_beside: bool, topology: Topology) -> list[str]:
    """Pools with a device, their own or one that a strategy gives out, that could serve such a file."""
    compiled = quantisation == COMPILED_QUANTISATION

    def fits(pool: Pool, device: Device) -> bool:
        if why_not(pool.name, pool.engine, device.kind) or device.kind == "remote":
            return False
        if FORMATS[pool.name] != "tflite" or engine_of(pool.name, pool.engine, device.kind) in WITHOUT_FILE:
            return True
        return compiled or compiled_beside if device.kind == "edgetpu" else not compiled

    return [
        pool.name
        for pool in topology.pools.values()
        if FORMATS.get(pool.name) == form and any(fits(pool, one) for one in (*pool.devices, *topology.allocated))
    ]
