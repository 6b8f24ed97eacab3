"""Titles and messages as a search compares them, where they have letters beyond ASCII."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from reef.records.words import folded

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ROWS_AT_ONCE = 500


def upgrade() -> None:
    for table, key, text in (("sessions", "id", "title"), ("messages", "number", "content")):
        op.add_column(table, sa.Column("folded", sa.Text(), nullable=True))
        _fold_all(sa.table(table, sa.column(key), sa.column(text), sa.column("folded")), key, text)


def _fold_all(table: sa.TableClause, key: str, text: str) -> None:
    connection = op.get_bind()
    change = table.update().where(table.c[key] == sa.bindparam("at")).values(folded=sa.bindparam("as"))
    page = sa.select(table.c[key], table.c[text]).order_by(table.c[key]).limit(ROWS_AT_ONCE)
    rows = connection.execute(page).all()
    while rows:
        found = [{"at": at, "as": new} for at, said in rows if (new := folded(said)) is not None]
        if found:
            connection.execute(change, found)
        rows = connection.execute(page.where(table.c[key] > rows[-1][0])).all()


def downgrade() -> None:
    op.drop_column("messages", "folded")
    op.drop_column("sessions", "folded")
