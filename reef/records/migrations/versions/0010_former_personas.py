"""Ids of personas that were deleted; what was left under such ids belongs to nobody from now on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

USED = """
INSERT INTO former_personas (id, deleted_at, in_index)
SELECT used.id, 0, :in_index FROM (
    SELECT persona_id AS id FROM sessions
    UNION SELECT persona_id FROM messages WHERE persona_id IS NOT NULL
    UNION SELECT store FROM document_stores WHERE store <> 'shared'
) AS used
WHERE used.id NOT IN (SELECT id FROM personas)
"""


def upgrade() -> None:
    op.create_table(
        "former_personas",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=False),
        sa.Column("in_index", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_former_personas")),
    )
    op.get_bind().execute(sa.text(USED), {"in_index": True})
    op.execute("DELETE FROM document_stores WHERE store IN (SELECT id FROM former_personas)")


def downgrade() -> None:
    op.drop_table("former_personas")
