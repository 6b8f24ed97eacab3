"""Reading the head of a model file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reef.models import ModelError
from reef.models.gguf import read_head


def test_head_says_what_the_file_is(tmp_path: Path, make_gguf: Callable[..., bytes]) -> None:
    """Architecture, context, template and tensor types come from the file, long values included."""
    path = tmp_path / "m.gguf"
    tokens = ["<s>", "Ġhello", "日本"]
    path.write_bytes(make_gguf({"tokenizer.ggml.tokens": tokens, "tokenizer.chat_template": "{{ x }}"}))
    head = read_head(path)
    assert (head.architecture, head.context_tokens, head.chat_template) == ("llama", 2048, "{{ x }}")
    assert head.tensor_types == {"F32"}
    assert head.metadata["tokenizer.ggml.tokens"] == tokens


def test_unwanted_keys_are_passed_over(tmp_path: Path, make_gguf: Callable[..., bytes]) -> None:
    """A vocabulary that nobody asked for is not built, and what follows it is still read."""
    path = tmp_path / "m.gguf"
    path.write_bytes(make_gguf({"tokenizer.ggml.tokens": ["a", "bc"], "tokenizer.ggml.types": [1, 2], "z.last": 7}))
    head = read_head(path, lambda key: key == "z.last")
    assert head.metadata == {"z.last": 7}
    assert head.tensor_types == {"F32"}


def test_every_cut_is_noticed(tmp_path: Path, make_gguf: Callable[..., bytes]) -> None:
    """Whatever the length a file was cut to, it is refused with a sentence, never read as whole."""
    whole = make_gguf({"tokenizer.ggml.tokens": ["a", "bc"]})
    path = tmp_path / "cut.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut short|not a model"):
            read_head(path)
    path.write_bytes(whole)
    assert read_head(path).architecture == "llama"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>", "not a model in GGUF format"),
        (b"GGUF" + b"\xff" * 64, "version 4294967295"),
        (b"GGUF\3\0\0\0" + b"\xff" * 64, "damaged"),
        (b"", "not a model"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    """A web page, an unknown version, absurd lengths and nothing at all are each named."""
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says):
        read_head(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is an error with its path."""
    with pytest.raises(ModelError, match=r"gone\.gguf cannot be read"):
        read_head(tmp_path / "gone.gguf")
