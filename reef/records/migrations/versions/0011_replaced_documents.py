"""How many documents an upload took the place of; the originals of those that were replaced are needed no more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("uploads", sa.Column("replaced", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE documents SET sha256 = NULL WHERE state = 'replaced'")


def downgrade() -> None:
    op.drop_column("uploads", "replaced")
