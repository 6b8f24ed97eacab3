"""The pages promise that a text stays here only where it does, and else name who gets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.ui.whereabouts import whereabouts
from reef.settings import Settings
from reef.topology import load_topology

HERE = "  chat: {queue: chat, devices: [cpu]}"
ELSEWHERE = "  chat: {queue: chat, devices: ['cpu@shed', 'cpu@attic', 'cpu@cellar']}"
REMOTE = "  chat: {queue: chat, devices: [remote], engine: remote}"
LOCAL = {"redis_url": "redis://127.0.0.1:6379/0", "chroma_url": "http://localhost:8000", "machine": "cellar"}


def told(directory: Path, pools: str = HERE, **fields: object) -> str:
    """What the chat page says of a reef with these pools and settings."""
    path = directory / "queues.yaml"
    path.write_text(f"version: 1\npools:\n{pools}\n", encoding="utf-8")
    return whereabouts(Settings().changed(**(LOCAL | fields)), load_topology(path)).told("you write")


@pytest.mark.parametrize(
    ("pools", "fields", "sentence"),
    [
        (HERE, {}, "Everything you write stays on this machine."),
        (HERE, {"database_url": "postgresql+psycopg://reef@/reef"}, "Everything you write stays on this machine."),
        (HERE, {"remote_url": "https://api.example.com/v1"}, "Everything you write stays on this machine."),
        (REMOTE, {"remote_url": "http://127.0.0.1:11434/v1"}, "Everything you write stays on this machine."),
        (
            REMOTE,
            {"remote_url": "https://api.example.com/v1"},
            "What you write goes to the model server at api.example.com.",
        ),
        (ELSEWHERE, {}, "What you write goes to the workers on attic and shed."),
        (
            HERE,
            {
                "database_url": "postgresql+psycopg://u:secret@db.lan/reef",
                "redis_url": "rediss://:secret@bus.lan:6379/0",
                "chroma_url": "http://index.lan:8000",
                "rerank_url": "https://ranks.example/v2",
            },
            "What you write goes to the database at db.lan, the broker at bus.lan, the vector index at index.lan and "
            "the reranker at ranks.example.",
        ),
        (
            HERE,
            {"host": "192.168.1.5"},
            "What you write stays on the machine of this reef, cellar. Whoever may open this reef can read it.",
        ),
        (
            ELSEWHERE,
            {"allowed_origins": "https://reef.example.com"},
            "What you write goes to the workers on attic and shed. Whoever may open this reef can read it.",
        ),
    ],
)
def test_the_sentence_names_who_gets_a_text(
    pools: str, fields: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    """Everything that leaves this machine is named, with its host and without its password."""
    assert told(tmp_path, pools, **fields) == sentence
