"""Writes app/grpc_api/generated/ from proto/coral_reef.proto: `make proto`. Needs grpcio-tools and mypy-protobuf."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "app/grpc_api/generated"
SOURCE = "coral_reef.proto"


def generate(root: Path, target: Path) -> int:
    """Write the modules below `target`, in the folders of their package; gives protoc's exit status."""
    from grpc_tools import protoc

    plugins = Path(sys.executable).parent
    kinds = {
        "python": "",
        "grpc_python": "",
        "mypy": f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        "mypy_grpc": f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
    }
    outputs = [f"--{kind}_out={'quiet:' if 'mypy' in kind else ''}{target}" for kind in kinds]
    # the virtual path makes protoc write imports that work inside the package
    paths = [f"--proto_path={PACKAGE}={root / 'proto'}", f"{PACKAGE}/{SOURCE}"]
    status: int = protoc.main(["protoc", *filter(None, kinds.values()), *outputs, *paths])
    return status


if __name__ == "__main__":
    sys.exit(generate(ROOT, ROOT))
