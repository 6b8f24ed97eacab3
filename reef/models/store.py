"""The models of one data directory: finding, fetching, checking. The only writer below `<data_dir>/models`.

models/NAME.gguf            a fetched model: complete and checked, put there by one atomic rename
models/.NAME.gguf.part      on its way, kept for resuming; .NAME.lock is held while it is
models/.checked/*.json      the SHA-256 of a file of known size and time, so that no start hashes a gigabyte
models/cache/               what engines derive from models (workers/engines), safe to delete
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from reef.models.catalogue import CatalogueEntry, Source, load_catalogue
from reef.models.errors import ModelError, ModelMissing
from reef.models.gguf import GgufHead, read_head
from reef.models.packages import free_bytes, join_wheels
from reef.ports import Progress

HASH_CHUNK_BYTES = 1 << 20
SPARE_BYTES = 200_000_000
"""Room that stays free on the disk besides the model itself."""
HASH_SHARE = 0.05
"""Part of the progress bar that belongs to checking."""


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
    sha256: str


class ModelStore:
    """Safe to use from several processes at once."""

    def __init__(self, data_dir: Path, catalogue: dict[str, CatalogueEntry] | None = None) -> None:
        self.folder = data_dir / "models"
        self.catalogue = load_catalogue() if catalogue is None else catalogue

    @property
    def demo(self) -> CatalogueEntry:
        """The model of a first run."""
        return next(entry for entry in self.catalogue.values() if entry.demo)

    def list(self) -> list[ModelState]:
        """The catalogue, then other .gguf files in the models directory."""
        states = []
        for entry in self.catalogue.values():
            path = self._path(entry.name)
            here = path.stat().st_size if path.is_file() else None
            states.append(ModelState(entry.name, entry, path if here else None, here or entry.size_shown_bytes))
        for path in sorted(self.folder.glob("[!.]*.gguf")):
            if path.stem not in self.catalogue:
                states.append(ModelState(path.stem, None, path, path.stat().st_size))
        return states

    def resolve(self, name_or_path: str) -> ModelFile:
        """The model of that name, or the .gguf file at that path.

        Raises ModelMissing when it is not on this machine, ModelError when the file there is no usable model.
        """
        if name_or_path.endswith(".gguf") or "/" in name_or_path:
            path = Path(name_or_path).expanduser().absolute()
            if not path.is_file():
                raise ModelMissing(f"There is no model file {path}. Give the path of a .gguf file or a name.")
            return self._file(path.stem, path)
        path = self._path(name_or_path)
        if path.is_file():
            return self._file(name_or_path, path)
        entry = self.catalogue.get(name_or_path)
        if entry is None:
            raise ModelMissing(self._unknown(name_or_path))
        raise ModelMissing(
            f"The model {entry.name} ({entry.size_shown_bytes / 1e6:.0f} MB) is not on this machine. "
            f"Fetch it with `coral-reef models pull {entry.name}`."
        )

    def head(self, model: ModelFile) -> GgufHead:
        """What the file says about itself, without its vocabulary."""
        return read_head(
            model.path, lambda key: not key.startswith("tokenizer.ggml.") or key.endswith((".model", ".pre"))
        )

    def pull(self, name_or_url: str, progress: Progress) -> ModelFile:
        """Fetch a model by its catalogue name or from a URL. Another process that fetches the same one is waited for.

        Raises ModelError; what has arrived by then is kept and the next call goes on from there.
        """
        name, entry, sources = self._wanted(name_or_url)
        self._make_folder()
        with self._locked(name, progress):
            if self._path(name).is_file():
                progress(1.0, f"{name} is already here.")
                return self._file(name, self._path(name))
            failed: list[str] = []
            for source in sources:
                try:
                    self._fetch(name, entry, source, progress)
                    break
                except ModelError as error:
                    failed.append(str(error))
            else:
                raise ModelError(" ".join(failed))
        return self._file(name, self._path(name))

    def sha256(self, path: Path) -> str:
        """Hash of a file; remembered as long as its size and time stay what they are."""
        stat = path.stat()
        try:
            known = msgspec.json.decode(self._memo(path).read_bytes(), type=_Checked)
            if (known.size_bytes, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                return known.sha256
        except (OSError, msgspec.DecodeError):
            pass
        digest = _hash(path)
        self._remember(path, digest)
        return digest

    def _memo(self, path: Path) -> Path:
        key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        return self.folder / ".checked" / f"{key}.json"

    def _remember(self, path: Path, digest: str) -> None:
        stat, memo = path.stat(), self._memo(path)
        try:
            memo.parent.mkdir(parents=True, exist_ok=True)
            fresh = memo.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(msgspec.json.encode(_Checked(stat.st_size, stat.st_mtime_ns, digest)))
            fresh.replace(memo)
        except OSError:
            return  # a read-only directory only costs the hashing at the next start

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.gguf"

    def _file(self, name: str, path: Path) -> ModelFile:
        read_head(path, lambda key: key.startswith("general."))
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
        )

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.catalogue, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return (
            f"No model is called {name!r}.{hint} `coral-reef models list` shows all; a path to a .gguf file works too."
        )

    def _wanted(self, name_or_url: str) -> tuple[str, CatalogueEntry | None, tuple[Source, ...]]:
        if name_or_url.startswith(("http://", "https://")):
            name = name_or_url.partition("?")[0].rpartition("/")[2].removesuffix(".gguf").lower()
            name = re.sub(r"[^a-z0-9._-]", "-", name).lstrip(".-")
            if not name:
                raise ModelError(f"{name_or_url} names no file. Give the address of a .gguf file.")
            return name, None, (Source(url=name_or_url),)
        entry = self.catalogue.get(name_or_url)
        if entry is None:
            raise ModelMissing(self._unknown(name_or_url))
        return entry.name, entry, entry.sources

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(
                f"{self.folder} cannot be made: {error.strerror}. Set REEF_DATA_DIR to a directory you may write."
            ) from error

    def _fetch(self, name: str, entry: CatalogueEntry | None, source: Source, progress: Progress) -> None:
        part = self.folder / f".{name}.{'wheels' if source.wheels else 'url'}.part"
        expected = entry.size_bytes if entry else None
        self._check_room(name, entry, part)

        def received(done: int, size: int | None = None) -> None:
            size = size or expected or (entry.size_shown_bytes if entry else 0)
            share = min(1.0, done / size) if size else 0.0
            progress(share * (1 - HASH_SHARE), f"Fetching {name}: {done / 1e6:.0f} of {size / 1e6:.0f} MB")

        progress(0.0, f"Fetching {name} from {source}")
        stated = None
        if source.wheels:
            join_wheels(source.wheels, part, received)
        else:
            from reef.models.download import Download  # its HTTP client would cost every worker's start 0.3 s

            stated = Download(source.url, part, expected, received).run()
        self._check(name, entry, source, part, stated, progress)

    def _check_room(self, name: str, entry: CatalogueEntry | None, part: Path) -> None:
        have = part.stat().st_size if part.exists() else 0
        needed = (entry.size_shown_bytes if entry else 0) - have + SPARE_BYTES
        free = free_bytes(self.folder)
        if free < needed:
            raise ModelError(
                f"No room for {name}: {free / 1e6:.0f} MB are free in {self.folder}, {needed / 1e6:.0f} MB are needed."
            )

    def _check(
        self,
        name: str,
        entry: CatalogueEntry | None,
        source: Source,
        part: Path,
        stated: str | None,
        progress: Progress,
    ) -> None:
        size, expected = part.stat().st_size, entry.sha256 if entry else None
        found = _hash(part, lambda done: progress(1 - HASH_SHARE * (1 - done / size), f"Checking {name}"))
        if found != (expected or stated or found):
            part.unlink()
            raise ModelError(
                f"{name} from {source} is not what it should be and was deleted: "
                f"its SHA-256 is {found}, expected {expected or stated}."
            )
        try:
            read_head(part, lambda key: key.startswith("general."))
        except ModelError:
            part.unlink()
            raise
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(self._path(name))
        self._remember(self._path(name), found)
        if expected:
            progress(1.0, f"{name} is here; its SHA-256 is the catalogue's.")
        elif stated:
            progress(1.0, f"{name} is here; its SHA-256 is what the server states. The catalogue has none to compare.")
        else:
            progress(1.0, f"{name} is here, but nobody states its SHA-256, so it was NOT checked: {found}")

    @contextmanager
    def _locked(self, name: str, progress: Progress) -> Iterator[None]:
        with (self.folder / f".{name}.lock").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(0.0, f"Another process is fetching {name}; waiting for it.")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _hash(path: Path, progress: Callable[[int], None] | None = None) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(HASH_CHUNK_BYTES):
            digest.update(data)
            done += len(data)
            if progress:
                progress(done)
    return digest.hexdigest()
