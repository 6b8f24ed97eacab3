"""The OpenAPI document and docs/api.md say what is served, no more and no less."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
from flask import Flask

from app import __version__, api_doc
from app.api.routes import ROUTES
from app.factory import create_app
from app.openapi import REASONS, document
from reef.settings import Settings

ROOT = Path(__file__).parents[3]
OUTSIDE = {"/ws"}
"""Served, and no JSON endpoint."""


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    """An application that connects to nothing."""
    return create_app(Settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1/0", queues_file=ROOT / "queues.yaml"))


def test_the_document_and_the_url_map_agree(app: Flask) -> None:
    """Every JSON endpoint is described, and everything described is served."""
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith("ui.") and rule.rule not in OUTSIDE
        for method in rule.methods or ()
        if method != "HEAD"
    }
    described = {(path, method) for path, item in document(ROUTES)["paths"].items() for method in item}
    assert served == described


def test_every_reference_resolves_and_every_operation_has_its_own_id() -> None:
    """The document is complete in itself."""
    described = document(ROUTES)
    schemas = described["components"]["schemas"]
    for name in re.findall(r"#/components/schemas/([^'\"]+)", str(described)):
        assert name in schemas
    operations = [operation for item in described["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] for operation in operations)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_status_has_its_reason() -> None:
    """No route promises a status that the document cannot explain."""
    assert {status for route in ROUTES for status in {*route.answers, *route.all_errors}} <= set(REASONS)


def test_the_written_documentation_is_current() -> None:
    """docs/api.md is what `python -m app.api_doc` writes."""
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == api_doc.text()


def test_the_version_is_the_projects() -> None:
    """What /api/v1/system/status says is what pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == __version__


@pytest.mark.parametrize("process", ["factory", "gateway.main"])
def test_the_front_door_loads_no_model_library(process: str) -> None:
    """Importing either process of it brings in nothing that computes, and no task body."""
    heavy = (
        "numpy",
        "chromadb",
        "openvino",
        "openvino_genai",
        "xllamacpp",
        "onnxruntime",
        "ai_edge_litert",
        "tasks.chat",
        "workers",
        "grpc",
        "app.grpc_api",
    )
    code = f"import sys, app.{process}; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
