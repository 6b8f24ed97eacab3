"""Knowledge: uploads, documents and the stores they belong to, chunks and their windows with vectors.

The full-text index over the chunks is SQLite's FTS5, kept by triggers, or a generated tsvector column of PostgreSQL.
Neither is ever rebuilt to answer a question.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# unicode61 alone would cut words at the vowel signs of Indic scripts (category M)
SQLITE_FULL_TEXT = (
    """CREATE VIRTUAL TABLE chunks_text USING fts5(
        text, headings, words, content='chunks', content_rowid='id',
        tokenize="porter unicode61 remove_diacritics 2 categories 'L* N* Co M*'")""",
    # a heading says more about a passage than a word inside it
    "INSERT INTO chunks_text(chunks_text, rank) VALUES ('rank', 'bm25(1.0, 2.0, 1.0)')",
    """CREATE TRIGGER chunks_text_insert AFTER INSERT ON chunks BEGIN
        INSERT INTO chunks_text(rowid, text, headings, words) VALUES (new.id, new.text, new.headings, new.words);
    END""",
    """CREATE TRIGGER chunks_text_delete AFTER DELETE ON chunks BEGIN
        INSERT INTO chunks_text(chunks_text, rowid, text, headings, words)
        VALUES ('delete', old.id, old.text, old.headings, old.words);
    END""",
    """CREATE TRIGGER chunks_text_update AFTER UPDATE OF text, headings, words ON chunks BEGIN
        INSERT INTO chunks_text(chunks_text, rowid, text, headings, words)
        VALUES ('delete', old.id, old.text, old.headings, old.words);
        INSERT INTO chunks_text(rowid, text, headings, words) VALUES (new.id, new.text, new.headings, new.words);
    END""",
)
# PostgreSQL would take a path or an address for one word; cut at these signs its parts are found as well
_CUT = "translate({}, './-_:@&+', '        ')"
POSTGRESQL_FULL_TEXT = (
    f"""ALTER TABLE chunks ADD COLUMN searchable tsvector GENERATED ALWAYS AS (
        setweight(to_tsvector('english'::regconfig, {_CUT.format("headings")}), 'A')
        || setweight(to_tsvector('english'::regconfig, {_CUT.format("text")}), 'D')
        || setweight(to_tsvector('english'::regconfig, words), 'D')) STORED""",
    "CREATE INDEX ix_chunks_searchable ON chunks USING gin (searchable)",
)


def upgrade() -> None:
    op.add_column("messages", sa.Column("citations", sa.Text(), nullable=True))
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stores", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_state", "uploads", ["state"], unique=False)
    op.create_table(
        "documents",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("upload_id", sa.String(length=64), nullable=True),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("received_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("mime_type", sa.String(length=120), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_at", sa.Double(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("reason_code", sa.String(length=32), nullable=True),
        sa.Column("duplicate_of", sa.String(length=64), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("language", sa.String(length=8), nullable=False),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("characters", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("chunk_count", sa.Integer(), nullable=False),
        sa.Column("embedded_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("indexed_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_documents_upload_id_uploads"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_documents")),
    )
    op.create_index(op.f("ix_documents_job_id"), "documents", ["job_id"], unique=False)
    op.create_index("ix_documents_name", "documents", ["name"], unique=False)
    op.create_index("ix_documents_sha256", "documents", ["sha256"], unique=False)
    op.create_index("ix_documents_state", "documents", ["state"], unique=False)
    op.create_index(op.f("ix_documents_upload_id"), "documents", ["upload_id"], unique=False)
    op.create_table(
        "chunks",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("document_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("headings", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), server_default="", nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("end", sa.Integer(), nullable=False),
        sa.Column("page_first", sa.Integer(), nullable=True),
        sa.Column("page_last", sa.Integer(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name=op.f("fk_chunks_document_id_documents"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chunks")),
        sa.UniqueConstraint("document_id", "number", name=op.f("uq_chunks_document_id_number")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "document_stores",
        sa.Column("document_id", sa.String(length=64), nullable=False),
        sa.Column("store", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name=op.f("fk_document_stores_document_id_documents"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("document_id", "store", name=op.f("pk_document_stores")),
    )
    op.create_index("ix_document_stores_store", "document_stores", ["store"], unique=False)
    op.create_table(
        "windows",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("chunk_id", sa.Integer(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("end", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["chunk_id"], ["chunks.id"], name=op.f("fk_windows_chunk_id_chunks"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_windows")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_windows_chunk_id"), "windows", ["chunk_id"], unique=False)
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in SQLITE_FULL_TEXT if sqlite else POSTGRESQL_FULL_TEXT:
        op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE chunks_text")
    op.drop_index(op.f("ix_windows_chunk_id"), table_name="windows")
    op.drop_table("windows")
    op.drop_index("ix_document_stores_store", table_name="document_stores")
    op.drop_table("document_stores")
    op.drop_table("chunks")
    op.drop_index(op.f("ix_documents_upload_id"), table_name="documents")
    op.drop_index("ix_documents_state", table_name="documents")
    op.drop_index("ix_documents_sha256", table_name="documents")
    op.drop_index("ix_documents_name", table_name="documents")
    op.drop_index(op.f("ix_documents_job_id"), table_name="documents")
    op.drop_table("documents")
    op.drop_index("ix_uploads_state", table_name="uploads")
    op.drop_table("uploads")
    op.drop_column("messages", "citations")
