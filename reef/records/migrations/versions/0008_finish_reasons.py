"""How a reply ended: by itself, or at its limit of tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("finish_reason", sa.String(length=8), nullable=True))


def downgrade() -> None:
    op.drop_column("messages", "finish_reason")
