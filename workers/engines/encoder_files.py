"""The files of the embedding model: fetched and built once per data directory, whichever worker comes first.

The embed pool loads the model from them, the index pool cuts passages with its tokenizer and for its window.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING

from reef.ports import EngineError, Progress

if TYPE_CHECKING:
    from embeddings_engine.models import Bundle

DEFAULT_MODEL = "all-MiniLM-L6-v2"


def encoder_files(model: str, models_dir: Path, progress: Progress) -> Bundle:
    """The built model: its folder, tokenizer, window. Raises EngineError with what to do next."""
    from embeddings_engine.errors import EmbeddingsError
    from embeddings_engine.models import ensure_bundle, ensure_model

    name = model or DEFAULT_MODEL
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with (models_dir / ".lock").open("wb") as lock:
            progress(0.0, f"Waiting for the embedding model {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be fetching it
            folder = Path(name) if Path(name).is_dir() else ensure_model(name, models_dir, progress)
            return ensure_bundle(folder, models_dir, progress)
    except (EmbeddingsError, OSError) as error:
        raise EngineError(f"The embedding model {name} cannot be used: {error}") from error
