"""The models of one data directory: finding, fetching, checking. The only writer below `<data_dir>/models`.

models/NAME.gguf            a fetched model (.tflite, .onnx too): complete and checked, put there by one atomic rename
models/.NAME.*              the beginning of a model, and what belongs to its fetching (parts.py)
models/.checked/*.json      SHA-256 and facts of a file of known size and time, so that no start hashes a gigabyte
models/cache/               what engines derive from models (workers/engines), safe to delete
models/embeddings/          belongs to the embedding library

A name may stand for a model with adapters: `base+adapter`, `base+adapter@0.5` (reef/models/adapters.py).
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from reef.models.adapters import Adapter, check_match, split_name
from reef.models.catalogue import CatalogueEntry, Source, load_catalogue
from reef.models.errors import ModelError, ModelInUse, ModelMissing
from reef.models.fetch import Fetch, MakeRoom, check_name, file_hash, name_in_url
from reef.models.formats import SUFFIXES, Facts, Format, read_facts
from reef.models.gguf import GgufHead, read_head
from reef.models.parts import Parts
from reef.models.tflite import asked_as
from reef.ports import Progress

if TYPE_CHECKING:
    from reef.models.download import Guard


ENCODERS = "embeddings"
"""Folder of the embedding library below the models'."""
LISTED = "`coral-reef models list` shows all"


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model on disk that an engine can load."""

    name: str
    title: str
    path: Path
    sha256: str
    size_bytes: int
    cache_dir: Path
    """Where an engine keeps what it derives from this file."""
    demo: bool = False
    better: str = ""
    format: Format = "gguf"
    adapters: tuple[Adapter, ...] = ()
    """Laid over the model while it computes."""


class ModelState(msgspec.Struct, frozen=True):
    """A catalogue entry, or a file of the user's own in the models directory, and whether it is here."""

    name: str
    entry: CatalogueEntry | None
    path: Path | None
    size_bytes: int
    """On disk, or else to fetch."""


class _Checked(msgspec.Struct, frozen=True):
    size_bytes: int
    mtime_ns: int
    sha256: str = ""
    facts: Facts | None = None


class ModelStore:
    """Safe to use from several processes at once."""

    def __init__(self, data_dir: Path, catalogue: dict[str, CatalogueEntry] | None = None) -> None:
        self.folder = data_dir / "models"
        self.parts = Parts(self.folder)
        self.catalogue = load_catalogue() if catalogue is None else catalogue

    @property
    def demo(self) -> CatalogueEntry:
        """The model of a first run."""
        return next(entry for entry in self.catalogue.values() if entry.demo)

    def list(self) -> list[ModelState]:
        """The catalogue, then other model files in the models directory."""
        files = self.files()
        states = []
        for entry in self.catalogue.values():
            path = files.pop(entry.name, None)
            here = path.stat().st_size if path else None
            states.append(ModelState(entry.name, entry, path, here or entry.size_shown_bytes))
        return states + [ModelState(name, None, path, path.stat().st_size) for name, path in files.items()]

    def files(self) -> dict[str, Path]:
        """The model files of the directory by name, whoever put them there."""
        found: dict[str, Path] = {}
        for suffix in reversed(SUFFIXES):
            found |= {path.stem: path for path in sorted(self.folder.glob(f"[!.]*{suffix}")) if path.is_file()}
        return dict(sorted(found.items()))

    def named_by(self, names: set[str]) -> set[str]:
        """These names, and those of the files that they may mean on one device or another."""
        return names | {name for name in self.files() if asked_as(name) in names}

    def encoders(self) -> dict[str, Path]:
        """What the embedding library keeps below our folder, by name; it fetches and builds by itself."""
        return {path.parent.name: path for path in sorted((self.folder / ENCODERS).glob("*/checkpoint"))}

    def resolve(self, name_or_path: str) -> ModelFile:
        """The model of that name, or the file at that path, with its adapters (`base+adapter@0.5`).

        Raises ModelMissing when it is not on this machine, ModelError when the file there is no usable model.
        """
        base, wanted = split_name(name_or_path)
        model = self.resolve_part(base)
        if model.format == "lora":
            raise ModelError(
                f"{base} is an adapter, which needs a model: give MODEL+{base}"
                + (f". It was made for {base_said}." if (base_said := self.facts(model.path).base) else ".")
            )
        adapters = []
        for name, scale in wanted:
            found = self.resolve_part(name)
            check_match(self.facts(found.path), found.path, self.facts(model.path), model.path)
            adapters.append(Adapter(name=found.name, path=found.path, sha256=found.sha256, scale=scale))
        return msgspec.structs.replace(model, name=name_or_path, adapters=tuple(adapters)) if adapters else model

    def resolve_part(self, name_or_path: str) -> ModelFile:
        """One file: a model or an adapter. Raises as `resolve`."""
        if name_or_path.endswith(SUFFIXES) or "/" in name_or_path:
            path = Path(name_or_path).expanduser().absolute()
            if not path.is_file():
                raise ModelMissing(f"There is no model file {path}. Give the path of a .gguf file or a name.")
            return self._file(path.stem, path)
        path = self._path(name_or_path)
        if path.is_file():
            return self._file(name_or_path, path)
        entry = self.catalogue.get(name_or_path)
        if entry is None:
            raise ModelMissing(f"{self.unknown(name_or_path)} {LISTED}; a path to a .gguf file works too.")
        raise ModelMissing(
            f"The model {entry.name} ({entry.size_shown_bytes / 1e6:.0f} MB) is not on this machine. "
            f"Fetch it with `coral-reef models pull {entry.name}`."
        )

    def head(self, model: ModelFile) -> GgufHead:
        """What the file says about itself, without its vocabulary."""
        return read_head(
            model.path, lambda key: not key.startswith("tokenizer.ggml.") or key.endswith((".model", ".pre"))
        )

    def pull(
        self,
        name_or_url: str,
        progress: Progress,
        *,
        url: str = "",
        sha256: str = "",
        guard: Guard | None = None,
        make_room: MakeRoom | None = None,
    ) -> ModelFile:
        """Fetch a model by its catalogue name or from a URL (`url`: under the name given first).

        Another process that fetches the same one is waited for. `guard` says which addresses may be asked, `make_room`
        which other models may go. Raises ModelError; what has arrived by an interruption is kept, and the next call
        goes on from there.
        """
        name, suffix, entry, sources = self._wanted(name_or_url, url)
        self._make_folder()
        with self._locked(name, progress):
            path = self._path(name)
            if path.is_file():
                self._check_same(name, path, sha256)
                progress(1.0, f"{name} is already here.")
                return self._file(name, path)
            fetch = Fetch(
                self.folder, name, suffix, progress, self._arrives, entry=entry, sha256=sha256, make_room=make_room
            )
            failed: list[str] = []
            for source in sources:
                try:
                    fetch.from_source(source, guard)
                    break
                except ModelError as error:
                    failed.append(str(error))
            else:
                raise ModelError(" ".join(failed))
            self.parts.remove(name)  # what another source had begun
        return self._file(name, self._path(name))

    def take_file(
        self,
        path: Path,
        progress: Progress,
        *,
        name: str = "",
        sha256: str = "",
        link: bool = False,
        make_room: MakeRoom | None = None,
    ) -> ModelFile:
        """Make a file of this machine a model of ours: a copy, or a hard link. Raises ModelError."""
        if path.suffix not in SUFFIXES or not path.is_file():
            raise ModelError(f"{path} is no file of a model. Give a {', '.join(SUFFIXES)} file.")
        name = check_name(name or name_in_url(path.name)[0])
        read_facts(path)  # a file that is no model is not copied
        self._make_folder()
        with self._locked(name, progress):
            if (there := self._path(name)).is_file():
                if file_hash(there) != file_hash(path):
                    raise ModelError(f"There is another model called {name} already. Give this one a name: --name NAME")
                progress(1.0, f"{name} is already here.")
                return self._file(name, there)
            fetch = Fetch(self.folder, name, path.suffix, progress, self._arrives, sha256=sha256, make_room=make_room)
            fetch.from_file(path, link=link)
        return self._file(name, fetch.target)

    def remove(self, name: str) -> int:
        """Take a model from the disk, or the beginning of one; gives its bytes. Whether it is used is not asked here.

        Raises ModelMissing, and ModelInUse while it is being fetched.
        """
        path = self._path(name)
        if not path.is_file() and name not in self.parts.all():
            raise ModelMissing(f"There is no model {name!r} on this machine. `coral-reef models list` shows all.")
        with self.parts.try_lock(name) as free:
            if not free:
                raise ModelInUse(f"{name} is being fetched by another process; stop that first.")
            size = self.parts.remove(name)
            if path.is_file():
                size += path.stat().st_size
                self._memo(path).unlink(missing_ok=True)
                path.unlink()
        return size

    def facts(self, path: Path) -> Facts:
        """What a file says about itself; read once as long as its size and time stay. Raises ModelError."""
        known = self._recall(path)
        if known is not None and known.facts is not None:
            return known.facts
        facts = read_facts(path)
        self._remember(path, _Checked(0, 0, sha256=known.sha256 if known else "", facts=facts))
        return facts

    def known_sha256(self, path: Path) -> str:
        """Hash of a file if somebody computed it since it changed; empty otherwise."""
        known = self._recall(path)
        return known.sha256 if known else ""

    def sha256(self, path: Path) -> str:
        """Hash of a file; remembered as long as its size and time stay what they are."""
        known = self._recall(path)
        if known is not None and known.sha256:
            return known.sha256
        digest = file_hash(path)
        self._remember(path, _Checked(0, 0, sha256=digest, facts=known.facts if known else None))
        return digest

    def _memo(self, path: Path) -> Path:
        key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        return self.folder / ".checked" / f"{key}.json"

    def _recall(self, path: Path) -> _Checked | None:
        """What is remembered about a file, if it still has the size and time it had then."""
        stat = path.stat()
        try:
            known = msgspec.json.decode(self._memo(path).read_bytes(), type=_Checked)
        except (OSError, msgspec.DecodeError):
            return None
        return known if (known.size_bytes, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns) else None

    def _arrives(self, part: Path, target: Path, sha256: str) -> None:
        """Known before the file stands in its place: who looks in that moment sees its hash, and overwrites nothing."""
        self._write(self._memo(target), part, _Checked(0, 0, sha256=sha256))

    def _remember(self, path: Path, known: _Checked) -> None:
        self._write(self._memo(path), path, known)

    def _write(self, memo: Path, path: Path, known: _Checked) -> None:
        stat = path.stat()
        known = msgspec.structs.replace(known, size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)
        try:
            memo.parent.mkdir(parents=True, exist_ok=True)
            fresh = memo.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(msgspec.json.encode(known))
            fresh.replace(memo)
        except OSError:
            return  # a read-only directory only costs the hashing at the next start

    def _path(self, name: str) -> Path:
        """Where the model of that name is; where it would be, if it is not here."""
        paths = [self.folder / f"{name}{suffix}" for suffix in SUFFIXES]
        return next((path for path in paths if path.is_file()), paths[0])

    def _file(self, name: str, path: Path) -> ModelFile:
        facts = read_facts(path)
        entry = self.catalogue.get(name) if path == self._path(name) else None
        sha256 = self.sha256(path)
        return ModelFile(
            name=name,
            title=entry.title if entry else name,
            path=path,
            sha256=sha256,
            size_bytes=path.stat().st_size,
            cache_dir=self.folder / "cache",
            demo=bool(entry and entry.demo),
            better=entry.better if entry else "",
            format=facts.format,
        )

    def _check_same(self, name: str, path: Path, sha256: str) -> None:
        if sha256 and (found := self.sha256(path)) != sha256:
            raise ModelError(
                f"{name} is on this machine already, and it is another file: its SHA-256 is {found}, expected "
                f"{sha256}. Remove it first (`coral-reef models remove {name}`), or give this one another name."
            )

    def unknown(self, name: str) -> str:
        """What is known about a name that stands for no model that can be loaded; who is asked adds what to do."""
        if name in self.encoders():
            return (
                f"{name} is an embedding model: it makes vectors of texts in pool embed, and no other pool can use it."
            )
        if name in self.parts.all():
            return f"Of {name} only the beginning is here."
        near = difflib.get_close_matches(name, self.catalogue, n=1)
        return f"No model is called {name!r}." + (f" Did you mean {near[0]}?" if near else "")

    def _wanted(self, name_or_url: str, url: str) -> tuple[str, str, CatalogueEntry | None, tuple[Source, ...]]:
        if name_or_url.startswith(("http://", "https://")):
            name, suffix = name_in_url(name_or_url)
            return name, suffix, None, (Source(url=name_or_url),)
        entry = self.catalogue.get(name_or_url)
        if url:
            if entry is not None:
                raise ModelError(f"{name_or_url} is a name of the catalogue, which knows where it comes from.")
            return check_name(name_or_url), name_in_url(url)[1], None, (Source(url=url),)
        if entry is None:
            raise ModelMissing(f"{self.unknown(name_or_url)} {LISTED}; the address of a file works too.")
        return entry.name, f".{entry.format}", entry, entry.sources

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(
                f"{self.folder} cannot be made: {error.strerror}. Set REEF_DATA_DIR to a directory you may write."
            ) from error

    @contextmanager
    def _locked(self, name: str, progress: Progress) -> Iterator[None]:
        if self.parts.is_busy(name):
            progress(0.0, f"Another process is fetching {name}; waiting for it.")
        with self.parts.lock(name):
            yield
