"""Documents cut into passages. `Chunker` in cut.py is what others use; pieces.py and tokens.py serve it."""

from reef.knowledge.chunking.cut import Chunker, ChunkSizes

__all__ = ["ChunkSizes", "Chunker"]
