"""Write the personas that ship, once: whoever deletes one does not want it back after an upgrade."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from reef.personas.store import shipped
from reef.records.tables import personas

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    rows = shipped()
    table = sa.table("personas", *(sa.column(name, personas.c[name].type) for name in rows[0]))
    op.bulk_insert(table, rows)


def downgrade() -> None:
    op.execute("DELETE FROM personas WHERE builtin")
