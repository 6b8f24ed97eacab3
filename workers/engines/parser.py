"""reef.ports.ParsingEngine: files to text in child processes, text to passages by the embedding model's own tokens."""

from __future__ import annotations

import threading
from importlib import metadata
from pathlib import Path

from reef.knowledge.chunking import Chunker, ChunkSizes
from reef.knowledge.model import Chunk, ParsedDocument
from reef.knowledge.parsing.limits import ParseLimits
from reef.knowledge.parsing.pool import ParserPool
from reef.knowledge.parsing.process import ChildLost
from reef.ports import EngineError, Progress

LIBRARY = "xberg"


class ParserEngine:
    """The engine of an index worker."""

    name = "parser"

    def __init__(
        self,
        *,
        processes: int,
        limits: ParseLimits,
        scratch_dir: Path,
        tokenizer: Path,
        sizes: ChunkSizes,
        ocr_languages: str = "eng",
    ) -> None:
        """`tokenizer` is the tokenizer.json of the embedding model whose windows the passages are cut for."""
        self.model = f"{LIBRARY} {metadata.version(LIBRARY)}"
        self._pool = ParserPool(processes, limits, scratch_dir, ocr_languages=ocr_languages)
        self._tokenizer, self._sizes = tokenizer, sizes
        self._chunker: Chunker | None = None

    def load(self, progress: Progress) -> None:
        """Read the tokenizer, start and warm the children."""
        progress(0.1, "reading the tokenizer")
        try:
            self._chunker = Chunker.from_file(self._tokenizer, self._sizes)
        except Exception as error:  # the library raises bare exceptions
            raise EngineError(
                f"The tokenizer {self._tokenizer} cannot be read ({error}). Fetch the embedding model again."
            ) from error
        progress(0.3, "starting parsing processes")
        try:
            self._pool.start()
        except (ChildLost, OSError) as error:
            raise EngineError(f"{error}. Is the installation complete (make install)?") from error
        progress(1.0, "ready to read files")

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
        """Files tried so far."""
        return self._pool.parsed()

    def close(self) -> None:
        """End the children."""
        self._pool.close()
