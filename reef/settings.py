"""Every setting of the product, read from the environment once. Nothing else in the repository reads `os.environ`.

A setting is a field here, an environment variable `REEF_<FIELD>` and a row in docs/operations.md (a test holds the
three together).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

PREFIX = "REEF_"
OTLP_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""The name that every OpenTelemetry program knows, for REEF_OTLP_URL."""


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message names the variable and what it accepts."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of one process. Paths are absolute; times are in seconds."""

    data_dir: Path = Path("data")
    """Database, broker files, models, logs and run files live below this directory."""
    host: str = "127.0.0.1"
    port: int = 8080
    gateway: bool = True
    """Whether a process of its own holds the WebSockets; without it the web process does."""
    grpc_port: int = 0
    """Port of the gRPC API, on `host`; 0: there is none."""
    redis_url: str = ""
    """Empty: `coral-reef up` starts a server of its own and hands its URL to the processes."""
    database_url: str = ""
    """Empty: SQLite in the data directory."""
    chroma_url: str = ""
    """Empty: `coral-reef up` starts Chroma where the pool embed or index has a device, and hands on its URL."""
    queues_file: Path = Path("queues.yaml")
    model: str = ""
    """Overrides the model of the chat pool: a catalogue name or a path to a .gguf file."""
    node: str = ""
    """Name of this worker process, unique in the reef; empty in the other processes."""
    flower_url: str = ""
    """Where Flower listens, for the link on the page of the reef; empty when it does not run."""
    remote_url: str = ""
    """Base URL of an OpenAI-compatible server, for pools with engine: remote."""
    remote_api_key: str = ""
    rerank_url: str = ""
    """Base URL of a service that answers POST /rerank as Cohere does; empty: passages keep the order of the indexes."""
    rerank_model: str = ""
    """Its model; empty for a server that has one."""
    rerank_api_key: str = ""
    allowed_origins: str = ""
    """Comma-separated web origins besides our own that may open a WebSocket."""
    require_api_key: bool = False
    """Ask for an API key on every request; always on when bound beyond loopback."""
    upload_file_bytes_max: int = 2 * 1024**3
    """Longest file that may be uploaded."""
    upload_files_max: int = 20_000
    """Files of one upload."""
    upload_bytes_max: int = 50 * 1024**3
    """All files of one upload together."""
    disk_reserve_bytes: int = 1024**3
    """So much of the disk stays free: an upload that would need it is refused."""
    edgetpu_library: str = "libedgetpu.so.1"
    """The delegate library for Edge TPUs: a name the loader finds, or a path."""
    device_root: Path = Path("/")
    """Where sys, proc and dev are looked for when devices are: another place in a container that mounts them there."""
    model_cache_bytes: int = 32_000_000_000
    """Model files on disk, together; what was not used for the longest time goes first. 0: no limit."""
    model_url_hosts: str = "huggingface.co,*.huggingface.co,*.hf.co"
    """Comma-separated hosts from which the API may fetch models; `*` any public one. Empty: none."""
    model_preload_bytes: int = -1
    """Memory for models that are likely to be asked for next, beside those that serve. -1: a quarter of what is free,
    on a machine with 8 GB or more; 0: none."""
    machine: str = ""
    """This machine's name in queues.yaml (`cpu@NAME`); empty: its host name up to the first dot."""
    otlp_url: str = ""
    """Where traces are sent (OTLP over HTTP); empty: none are made."""
    log_level: str = "info"

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL with its embedded default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir / 'reef.db'}"

    @property
    def reached_at(self) -> str:
        """`host` in an address that this machine can call."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"[{host}]" if ":" in host and not host.startswith("[") else host

    @property
    def grpc_address(self) -> str:
        """Where this machine reaches the gRPC API; empty where there is none."""
        return f"{self.reached_at}:{self.grpc_port}" if self.grpc_port else ""

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for child processes."""
        return {PREFIX + name.upper(): _plain(getattr(self, name)) for name in self.__struct_fields__}

    def changed(self, **fields: Any) -> Settings:
        """A copy with some fields replaced."""
        return msgspec.structs.replace(self, **fields)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raises SettingsError naming the variable that cannot be used."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        variable = PREFIX + field.name.upper()
        text = environ.get(variable)
        if text is None or text == "":
            continue
        values[field.name] = _parse(variable, text, field.type)
    settings = Settings(**values)
    if not 1 <= settings.port <= 65535:
        raise SettingsError(f"REEF_PORT is {settings.port}; it must be between 1 and 65535.")
    if not 0 <= settings.grpc_port <= 65535:
        raise SettingsError(f"REEF_GRPC_PORT is {settings.grpc_port}; it must be between 1 and 65535, or 0 for none.")
    if not settings.otlp_url:
        settings = settings.changed(otlp_url=environ.get(OTLP_VARIABLE, ""))
    return settings.changed(data_dir=settings.data_dir.absolute(), queues_file=settings.queues_file.absolute())


def inherited_environment() -> dict[str, str]:
    """The whole environment of this process, for child processes that get their settings on top of it."""
    return dict(os.environ)


def _parse(variable: str, text: str, kind: Any) -> Any:
    if kind is Path:
        return Path(text).expanduser()
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{variable} is {text!r}: {error}.") from None


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
