"""Redis keys are spelled in one module."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_nobody_else_spells_a_key() -> None:
    """No string in the product outside reef/keys.py begins with our key prefix."""
    offenders = []
    for folder in ("app", "cli", "reef", "tasks", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            if path == ROOT / "reef" / "keys.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("reef:"):
                    offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert offenders == []
