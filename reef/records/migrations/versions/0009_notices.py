"""What a person was told beside a reply, so that it is still known when the chat is read again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("notice", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("messages", "notice")
