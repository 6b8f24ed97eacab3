"""Smaller vectors and exact search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings_engine import Int8, Pca, VectorStore, hamming_similarity, similarity, to_binary, truncate


def rows(count: int = 400, dimensions: int = 32, rank: int = 8) -> np.ndarray:
    """Unit vectors that differ in `rank` directions mostly."""
    random = np.random.default_rng(5)
    found = random.normal(size=(count, rank)) @ random.normal(size=(rank, dimensions))
    found += 0.05 * random.normal(size=found.shape)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def neighbours(vectors: np.ndarray) -> np.ndarray:
    scores = np.asarray(similarity(vectors, vectors))
    np.fill_diagonal(scores, -2)
    return np.argsort(-scores, axis=1)[:, :10]


def overlap(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(left, right, strict=True)]))


def test_similarity_has_the_shape_of_its_arguments() -> None:
    """Two rows give a number, a row and a matrix a row, two matrices a matrix; lengths do not matter."""
    a = rows(3)
    assert similarity(a[0], a[0] * 7) == pytest.approx(1)
    assert np.asarray(similarity(a[0], a)).shape == (3,)
    assert np.asarray(similarity(a, a[0])).shape == (3,)
    np.testing.assert_allclose(similarity(a, a), a @ a.T, atol=1e-6)
    assert similarity(np.zeros(4, np.float32), np.ones(4, np.float32)) == 0
    with pytest.raises(ValueError, match="4 and 3 dimensions"):
        similarity(np.ones(4, np.float32), np.ones(3, np.float32))


def test_pca_keeps_neighbours_that_truncation_loses(tmp_path: Path) -> None:
    """Where vectors differ in 8 directions, 8 components keep the neighbours; a saved one computes the same."""
    vectors = rows()
    pca = Pca.fit(vectors, 8)
    exact = neighbours(vectors)
    assert overlap(neighbours(pca.apply(vectors)), exact) > 0.85
    assert overlap(neighbours(truncate(vectors, 8)), exact) < 0.8
    pca.save(tmp_path / "pca.npz")
    np.testing.assert_array_equal(Pca.load(tmp_path / "pca.npz").apply(vectors), pca.apply(vectors))
    with pytest.raises(ValueError, match="larger sample"):
        Pca.fit(vectors[:5], 8)
    with pytest.raises(ValueError, match="1 to 32"):
        truncate(vectors, 0)


def test_bytes_and_bits_keep_most_neighbours() -> None:
    """int8 nearly all of them at a quarter of the size, one bit a dimension many at a 32nd."""
    vectors = rows()
    exact = neighbours(vectors)
    int8 = Int8.fit(vectors)
    codes = int8.encode(vectors)
    assert codes.nbytes * 4 == vectors.nbytes
    assert overlap(neighbours(int8.decode(codes)), exact) > 0.95
    bits = to_binary(vectors)
    assert bits.nbytes * 32 == vectors.nbytes
    scores = hamming_similarity(bits, bits)
    assert scores[0, 0] == 1
    np.fill_diagonal(scores, -1)
    assert overlap(np.argsort(-scores, axis=1)[:, :10], exact) > 0.3


def test_search_finds_the_nearest_with_their_metadata() -> None:
    """Best first, filtered by metadata, with cosine scores."""
    store, vectors = VectorStore(), rows(300)
    ids = [store.insert(row * 3, metadata={"n": n, "even": n % 2 == 0}) for n, row in enumerate(vectors)]
    found = store.search(vectors[7], k=5)
    assert (found[0].id, found[0].metadata["n"]) == (ids[7], 7)
    assert found[0].score == pytest.approx(1, abs=1e-5)
    assert [match.metadata["n"] for match in found[1:]] == list(neighbours(vectors)[7][:4])
    even = store.search(vectors[7], k=5, where={"even": True})
    assert all(match.metadata["even"] for match in even)
    assert store.search(vectors[7], where={"n": -1}) == []
    assert VectorStore().search(vectors[0]) == []


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(st.tuples(st.sampled_from(["insert", "delete"]), st.integers(0, 12)), max_size=60))
def test_inserts_and_deletes_leave_what_a_dictionary_would(steps: list[tuple[str, int]]) -> None:
    """Whatever the order, the store holds the last vector of every id that was not deleted."""
    store, expected = VectorStore(), dict[str, int]()
    vectors = rows(len(steps) + 1)
    for at, (what, name) in enumerate(steps):
        if what == "insert":
            store.insert(vectors[at], {"at": at}, id=str(name))
            expected[str(name)] = at
        else:
            assert store.delete(str(name)) == (expected.pop(str(name), None) is not None)
    assert len(store) == len(expected)
    for name, at in expected.items():
        best = store.search(vectors[at], k=1)[0]
        assert (best.id, best.metadata) == (name, {"at": at})


def test_a_saved_store_comes_back(tmp_path: Path) -> None:
    """Vectors, ids and metadata are the same; another file is refused; an empty store can be saved too."""
    store, vectors = VectorStore(), rows(20)
    for number, row in enumerate(vectors):
        store.insert(row, {"text": f"náme {number}"}, id=f"id{number}")
    store.save(tmp_path / "store.npz")
    again = VectorStore.load(tmp_path / "store.npz")
    assert again.search(vectors[3], k=4) == store.search(vectors[3], k=4)
    again.insert(vectors[0], id="new")
    assert len(again) == 21
    VectorStore().save(tmp_path / "empty.npz")
    assert len(VectorStore.load(tmp_path / "empty.npz")) == 0
    (tmp_path / "other.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ValueError, match="not a saved vector store"):
        VectorStore.load(tmp_path / "other.npz")


def test_what_is_no_embedding_is_refused() -> None:
    """Zeros, not-a-number, a matrix, and another number of dimensions."""
    store = VectorStore()
    store.insert(np.ones(4, np.float32))
    for bad in (np.zeros(4), np.full(4, np.nan), np.ones((2, 4)), np.ones(5)):
        with pytest.raises(ValueError, match=r"embedding is one row|dimensions"):
            store.insert(bad.astype(np.float32))
    with pytest.raises(ValueError, match="shape"):
        store.search(np.ones(5, np.float32))
