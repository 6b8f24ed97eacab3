"""reef.ports.ParsingEngine: files to text in child processes, text to passages by the embedding model's own tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Protocol

import msgspec

from reef.knowledge.chunking import Chunker, ChunkSizes
from reef.knowledge.model import Chunk, ParsedDocument
from reef.knowledge.parsing.limits import ParseLimits
from reef.knowledge.parsing.pool import ParserPool
from reef.knowledge.parsing.process import ChildLost
from reef.ports import EngineError, Progress

LIBRARY = "xberg"


class Encoder(Protocol):
    """Files of an embedding model."""

    @property
    def folder(self) -> Path:
        """Where its tokenizer.json is."""

    @property
    def window_tokens(self) -> int:
        """What it reads at once, special tokens included."""


class ParserEngine:
    """The engine of an index worker."""

    name = "parser"

    def __init__(
        self,
        *,
        processes: int,
        limits: ParseLimits,
        scratch_dir: Path,
        encoder: Callable[[Progress], Encoder],
        sizes: ChunkSizes,
        ocr_languages: str = "eng",
    ) -> None:
        """`encoder` gives the embedding model whose windows the passages are cut for; it may fetch it."""
        self.model = f"{LIBRARY} {metadata.version(LIBRARY)}"
        self._pool = ParserPool(processes, limits, scratch_dir, ocr_languages=ocr_languages)
        self._encoder, self._sizes = encoder, sizes
        self._chunker: Chunker | None = None

    def load(self, progress: Progress) -> None:
        """Read the tokenizer, start and warm the children."""
        encoder = self._encoder(progress)
        tokenizer = encoder.folder / "tokenizer.json"
        progress(0.9, "reading the tokenizer")
        try:
            sizes = msgspec.structs.replace(self._sizes, window_tokens=encoder.window_tokens)
            self._chunker = Chunker.from_file(tokenizer, sizes)
        except Exception as error:  # the library raises bare exceptions
            raise EngineError(
                f"The tokenizer {tokenizer} cannot be read ({error}). Fetch the embedding model again."
            ) from error
        progress(0.95, "starting parsing processes")
        try:
            self._pool.start()
        except (ChildLost, OSError) as error:
            raise EngineError(f"{error}. Is the installation complete (make install)?") from error
        progress(1.0, "")

    def parse(self, path: Path, name: str, cancel: threading.Event) -> ParsedDocument:
        """The file as text (see reef.ports.ParsingEngine)."""
        try:
            return self._pool.parse(path, name, cancel)
        except (ChildLost, OSError) as error:
            raise EngineError(f"No parsing process could be started: {error}") from error

    def cut(self, document: ParsedDocument) -> list[Chunk]:
        """The document in passages."""
        if self._chunker is None:
            raise EngineError("The engine is not loaded.")
        return self._chunker.cut(document)

    def steps(self) -> int:
        """Moves while files are read (see reef.ports.Engine)."""
        return self._pool.steps()

    def close(self) -> None:
        """End the children."""
        self._pool.close()
