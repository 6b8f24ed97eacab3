"""Every setting of the product, read from the environment once. Nothing else in the repository reads `os.environ`.

A setting is a field here, an environment variable `REEF_<FIELD>` and a row in docs/operations.md (a test holds the
three together).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

PREFIX = "REEF_"
OTLP_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""The name that every OpenTelemetry program knows, for REEF_OTLP_URL."""
OTHER_VARIABLES = frozenset(
    {"REEF_API_KEY", "REEF_BROKER_PASSWORD", "REEF_METRICS_KEY", "REEF_TEST_DATA", "REEF_CHROMIUM"}
)
"""Names of ours that are no settings: of `coral-reef ingest`, of docker-compose.yml and of the tests."""
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
RANGES: dict[str, tuple[int, int | None, str]] = {
    "port": (1, 65535, ""),
    "grpc_port": (0, 65535, "; 0: no gRPC API"),
    "upload_file_bytes_max": (1, None, ""),
    "upload_files_max": (1, None, ""),
    "upload_bytes_max": (1, None, ""),
    "disk_reserve_bytes": (0, None, ""),
    "model_cache_bytes": (0, None, "; 0: no limit"),
    "model_preload_bytes": (-1, None, "; 0: none, -1: a quarter of what is free"),
}
"""Least and largest value of each number, and what its special values mean."""
WEB_ADDRESSES = ("chroma_url", "remote_url", "rerank_url", "flower_url", "otlp_url")


_SIZE = re.compile(r"(-?\d+|\d+\.\d+(?=\s*[kmgt]))\s*(?:([kmgt])(i)?)?b?", re.IGNORECASE)
_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}
"""GB is 1000³ bytes, GiB 1024³."""


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
    upload_file_bytes_max: int = 2 * 10**9
    """Longest archive that may be uploaded; other files have a limit of their own."""
    upload_files_max: int = 20_000
    """Files of one upload."""
    upload_bytes_max: int = 50 * 10**9
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
    """Read the settings. Raises SettingsError, with a line for every variable that cannot be used."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for field in msgspec.structs.fields(Settings):
        variable = PREFIX + field.name.upper()
        text = environ.get(variable)
        if text is None or text == "":
            continue
        try:
            values[field.name] = _parse(field.name, text, field.type)
        except ValueError as error:
            wrong.append(f"{variable} is {_shown(text)}; it must be {error}.")
    if wrong:
        raise SettingsError("\n".join(wrong))
    settings = Settings(**values)
    if not settings.otlp_url:
        settings = settings.changed(otlp_url=environ.get(OTLP_VARIABLE, ""))
    return settings.changed(data_dir=settings.data_dir.absolute(), queues_file=settings.queues_file.absolute())


def unknown_variables(environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """A sentence for each REEF_ name that no part of the product reads, with the setting that may be meant."""
    environ = os.environ if environ is None else environ
    known = {PREFIX + name.upper() for name in Settings.__struct_fields__}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or name in OTHER_VARIABLES:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        yield f"{name} is no setting and has no effect." + (f" Is {near[0]} meant?" if near else "")


def inherited_environment() -> dict[str, str]:
    """The whole environment of this process, for child processes that get their settings on top of it."""
    return dict(os.environ)


def _parse(name: str, text: str, kind: Any) -> Any:
    """A setting's value. Raises ValueError with what it must be."""
    if kind is Path:
        return Path(text).expanduser()
    if kind is bool:
        return _switch(text)
    if kind is int:
        return _number(name, text)
    if name == "log_level":
        if text.lower() not in LOG_LEVELS:
            raise ValueError(f"{', '.join(LOG_LEVELS[:-1])} or {LOG_LEVELS[-1]}")
        return text.lower()
    if name in WEB_ADDRESSES and not text.startswith(("http://", "https://")):
        raise ValueError("an address that begins with http:// or https://")
    if name == "allowed_origins" and not all("://" in origin for origin in text.split(",") if origin.strip()):
        raise ValueError("origins with their scheme, separated by commas, like https://reef.example.org")
    return text


def _switch(text: str) -> bool:
    try:
        return msgspec.convert(text, bool, strict=False)
    except msgspec.ValidationError:
        raise ValueError("true or false") from None


def _number(name: str, text: str) -> int:
    least, most, meanings = RANGES[name]
    wanted = f"a whole number of at least {least}" if most is None else f"a whole number between {least} and {most}"
    try:
        value = _bytes(text) if "_bytes" in name else msgspec.convert(text, int, strict=False)
    except msgspec.ValidationError:
        raise ValueError(wanted + meanings) from None
    if value < least or (most is not None and value > most):
        raise ValueError(wanted + meanings)
    return value


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError("a number of bytes, or one with a unit, such as 32GB or 8 GiB")
    unit = _UNITS[found[2].upper()] if found[2] else 0
    return round(float(found[1]) * (1024 if found[3] else 1000) ** unit) if unit else int(found[1])


def _shown(text: str) -> str:
    """A value for people: what stands before an @ may be a password."""
    _secret, at, place = text.rpartition("@")
    return repr(f"***@{place}" if at else text)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
