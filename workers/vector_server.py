"""Chroma as `coral-reef up` runs it: how it is configured, where it listens, and the program itself.

Started by the supervisor; one process owns the directory. The program is the same server as `chroma run`, entered
without importing chromadb, which it does not need: 39 MB at rest instead of 120 MB. Like the broker it comes back
under its old port. It has no password: whoever has an account on this machine can reach it.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from workers.broker import LOOPBACK, free_port, port_is_free
from workers.private_file import write_private

SERVER_MODULE = "chromadb_rust_bindings"
QUIET: Mapping[str, str] = {"ANONYMIZED_TELEMETRY": "False"}


class VectorEndpoint(msgspec.Struct, frozen=True):
    """endpoint.json: where the server listens."""

    port: int

    @property
    def url(self) -> str:
        """Its URL, for REEF_CHROMA_URL."""
        return f"http://{LOOPBACK}:{self.port}"


def installed() -> bool:
    """Whether the server is there for this machine."""
    return find_spec(SERVER_MODULE) is not None


def prepare(directory: Path, avoid: Sequence[int] = ()) -> tuple[VectorEndpoint, list[str]]:
    """Write the configuration; return where the server will listen (nowhere of `avoid`) and what runs it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    endpoint = remembered(directory)
    if endpoint is None or endpoint.port in avoid or not port_is_free(endpoint.port):
        endpoint = VectorEndpoint(free_port(avoid=avoid))
    write_private(directory / "endpoint.json", msgspec.json.encode(endpoint))
    config = directory / "server.yaml"
    # no limit on the graphs in memory: 1.5.9 cannot read back one that it put away before it was first written to disk
    settings = {"listen_address": LOOPBACK, "port": endpoint.port, "persist_path": str(directory.absolute() / "data")}
    # JSON is YAML, and quotes any path
    write_private(config, json.dumps(settings, indent=2).encode())
    return endpoint, [sys.executable, "-m", "workers.vector_server", str(config)]


def remembered(directory: Path) -> VectorEndpoint | None:
    """Where the server of this directory listens, or did when it ran last."""
    try:
        return msgspec.json.decode((directory / "endpoint.json").read_bytes(), type=VectorEndpoint)
    except (OSError, msgspec.DecodeError):
        return None


def main(config: str) -> None:
    """Serve until SIGTERM."""
    # each collection keeps a handful of files open
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    import chromadb_rust_bindings

    chromadb_rust_bindings.cli(["chroma", "run", config])


if __name__ == "__main__":
    main(sys.argv[1])
