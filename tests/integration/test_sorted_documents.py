"""The order of a list of documents."""

from __future__ import annotations

from typing import get_args

import pytest
from workshop import Workshop

from reef.knowledge.documents import Sort, Wanted, list_documents


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", ["a.txt", "B.txt", "c.txt"]),
        ("-name", ["c.txt", "B.txt", "a.txt"]),
        ("size", ["c.txt", "a.txt", "B.txt"]),
        ("-size", ["B.txt", "a.txt", "c.txt"]),
        ("state", ["c.txt"]),
        ("created", ["a.txt", "B.txt", "c.txt"]),
        ("", ["c.txt", "B.txt", "a.txt"]),
    ],
)
def test_a_list_is_sorted(shop: Workshop, sort: Sort, names: list[str]) -> None:
    """Whatever the case of a name; part after part gives the same as the whole."""
    for name, text in {"a.txt": "some words", "B.txt": "some more words", "c.txt": ""}.items():
        shop.add({name: text})
    shop.run_all()
    wanted = Wanted(sort=sort)
    parts = [list_documents(shop.flow, wanted, 1, offset)[0][0].name for offset in range(3)]
    assert parts[: len(names)] == names
    assert [document.name for document in list_documents(shop.flow, wanted, 3, 0)[0]] == parts


def test_what_was_never_indexed_comes_last(shop: Workshop) -> None:
    """In both directions, and every order that may be asked for can be given."""
    shop.add({"empty.txt": "", "good.txt": "words"})
    shop.run_all()
    for sort in get_args(Sort):
        found, total = list_documents(shop.flow, Wanted(sort=sort), 10, 0)
        assert (len(found), total) == (2, 2)
        if "indexed" in sort:
            assert [document.name for document in found] == ["good.txt", "empty.txt"]
