"""Full-text search over the chunks: SQLite's FTS5 or PostgreSQL's tsvector, whichever holds the records.

The index is kept by the database itself with every change (migration 0003); no question ever builds one. What a
person types is never query syntax here: it is cut into words (reef/records/words.py), and each word is data.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import sqlalchemy as sa

from reef.knowledge.visible import NO_FILTERS, Filters, visible
from reef.records.tables import FULL_TEXT_COLUMN, FULL_TEXT_TABLE, chunks, documents
from reef.records.words import Word, question_words

DEPTH_FIRST = 200
"""The best so many hits of the whole index are looked at; most stores find enough of their own among them."""
DEPTH_GROWTH = 10
DEPTH_MAX = 200_000
HITS_MAX = 5_000
"""Of a question in a large library: its frequent words are left out once the rarer ones have so many hits. They would
hardly change the order, and each hit must be ranked."""
_POSTGRESQL_CUT = str.maketrans(dict.fromkeys("./-_:@&+", " "))

_rows = sa.table(FULL_TEXT_TABLE, sa.column("rowid"), sa.column("rank"), sa.column(FULL_TEXT_TABLE))
_column: sa.ColumnClause[Any] = sa.column(FULL_TEXT_COLUMN, _selectable=chunks)
_english: sa.ColumnClause[Any] = sa.literal_column("'english'::regconfig")


def search(
    connection: sa.Connection, stores: Sequence[str], text: str, k: int, filters: Filters = NO_FILTERS
) -> list[tuple[int, float]]:
    """Visible chunks with words of the text, best first, with a score that grows. At most k.

    Scores are bm25 on SQLite and ts_rank_cd on PostgreSQL: an order, not a probability.
    """
    words = question_words(text)
    if not words:
        return []
    if connection.dialect.name == "sqlite":
        rare = _rare(words, [_hits(connection, word) for word in words], k)
        return _search_sqlite(connection, stores, _match(rare), k, filters)
    rare = _rare(words, [_estimate(connection, word) for word in words], k)
    return _search_postgresql(connection, stores, rare, k, filters)


def _match(words: Sequence[Word]) -> str:
    """FTS5's query: each form a quoted string, which holds no syntax; signs inside a word make it a phrase."""
    return " OR ".join(
        '"' + form.replace('"', '""') + '"' + ("*" if word.prefix else "") for word in words for form in word.forms
    )


def _rare(words: Sequence[Word], hits: Sequence[int], k: int) -> list[Word]:
    """The rarest words, as many as have HITS_MAX hits together; more where they have too few for an answer."""
    kept: list[Word] = []
    total = 0
    for count, place in sorted((count, place) for place, count in enumerate(hits)):
        if total >= k and total + count > HITS_MAX:
            break
        total += count
        kept.append(words[place])
    return kept


def _hits(connection: sa.Connection, word: Word) -> int:
    """In how many chunks a word is, counted no further than it matters."""
    found = sa.select(_rows.c.rowid).where(_rows.c[FULL_TEXT_TABLE].op("MATCH")(_match([word]))).limit(HITS_MAX + 1)
    return connection.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one()


def _estimate(connection: sa.Connection, word: Word) -> int:
    """In how many chunks PostgreSQL's statistics expect a word: counting would take as long as searching."""
    query = sa.select(chunks.c.id).where(_column.op("@@")(_either([word]))).compile(connection)
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {query}", query.params).scalar_one()
    return int(plan[0]["Plan"]["Plan Rows"])


def _search_sqlite(
    connection: sa.Connection, stores: Sequence[str], match: str, k: int, filters: Filters
) -> list[tuple[int, float]]:
    # ranking needs the whole list of hits, but a look at the documents is dear: only the best are looked up
    depth = max(DEPTH_FIRST, 4 * k)
    while True:
        best = (
            sa.select(_rows.c.rowid.label("id"), _rows.c.rank)
            .where(_rows.c[FULL_TEXT_TABLE].op("MATCH")(match))
            .order_by(_rows.c.rank)
            .limit(depth)
            .cte("best")
            .prefix_with("MATERIALIZED")
        )
        hits = sa.select(sa.func.count()).select_from(best).scalar_subquery()
        query = (
            sa.select(best.c.id, best.c.rank, hits)
            .join(chunks, chunks.c.id == best.c.id)
            .join(documents, documents.c.id == chunks.c.document_id)
            .where(visible(stores, filters))
            .order_by(best.c.rank)
            .limit(k)
        )
        rows = connection.execute(query).all()
        if len(rows) == k or depth >= DEPTH_MAX or (rows and rows[0][2] < depth):
            break
        depth *= DEPTH_GROWTH
    return [(int(row[0]), -float(row[1])) for row in rows]


def _search_postgresql(
    connection: sa.Connection, stores: Sequence[str], words: Sequence[Word], k: int, filters: Filters
) -> list[tuple[int, float]]:
    asked = sa.select(_either(words).label("query")).cte("asked")
    score = sa.func.ts_rank_cd(_column, asked.c.query)
    rows = connection.execute(
        sa.select(chunks.c.id, score)
        .select_from(chunks.join(documents, documents.c.id == chunks.c.document_id).join(asked, sa.true()))
        .where(_column.op("@@")(asked.c.query), visible(stores, filters))
        .order_by(score.desc(), chunks.c.id)
        .limit(k)
    )
    return [(int(row[0]), float(row[1])) for row in rows]


def _either(words: Sequence[Word]) -> sa.ColumnElement[Any]:
    """PostgreSQL's query for any of the words; signs inside a word make it a phrase."""

    def term(form: str, prefix: bool) -> sa.ColumnElement[Any]:
        if prefix:  # one character of a script without spaces, so never a sign of the query language
            return sa.func.to_tsquery(_english, f"'{form}':*")
        return sa.func.phraseto_tsquery(_english, form.translate(_POSTGRESQL_CUT))

    terms = [term(form, word.prefix) for word in words for form in word.forms]
    return reduce(lambda left, right: left.op("||")(right), terms)
