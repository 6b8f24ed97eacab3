"""The proxies of deploy/, run with their own files: only names, ports and certificates are put in, as a reader does."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from certificates import Authority

DEPLOY = Path(__file__).parent.parent / "deploy"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
"""Debian keeps nginx where users without rights do not look."""
NAME = "reef.example.org"
"""What both files say for the reader's own name."""
HOST = "localhost"
PATIENCE_S = 10.0
NGINX_MAIN = """
daemon off;
worker_processes 1;
pid {directory}/pid;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/coral-reef.conf;
}}
"""
CADDY_MAIN = "\tadmin off\n\thttp_port {http}\n\thttps_port {https}\n\tdefault_bind 127.0.0.1\n"


@dataclass(frozen=True)
class Ports:
    """Where a proxy listens, and what is behind it."""

    http: int
    https: int
    reef: int
    grpc: int


@dataclass(frozen=True)
class Front:
    """A running proxy."""

    ports: Ports
    ca: Path

    @property
    def origin(self) -> str:
        """What a browser calls it."""
        return f"https://{HOST}:{self.ports.https}"

    def trust(self) -> ssl.SSLContext:
        """For clients: its certificate is good, others are not."""
        return ssl.create_default_context(cafile=str(self.ca))


def program(name: str) -> str | None:
    """Where a proxy is installed."""
    return shutil.which(name, path=PATH)


@contextmanager
def running_front(name: str, directory: Path, ports: Ports) -> Iterator[Front]:
    """Start nginx or Caddy with its file of deploy/."""
    authority = Authority(directory)
    certificate = authority.server(HOST)
    argv = (_nginx if name == "nginx" else _caddy)(directory, ports, *certificate)
    # Caddy keeps what it knows below these
    environment = os.environ | dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(directory))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
    try:
        _wait(process, ports, directory / "log")
        yield Front(ports, authority.ca)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _nginx(directory: Path, ports: Ports, certificate: Path, key: Path) -> list[str]:
    text = (DEPLOY / "nginx/coral-reef.conf").read_text(encoding="utf-8")
    text = re.sub(r"^ *listen \[::\].*\n", "", text, flags=re.MULTILINE)
    changes = {
        "listen 443 ": f"listen 127.0.0.1:{ports.https} ",
        "listen 80;": f"listen 127.0.0.1:{ports.http};",
        "return 308 https://reef.example.org": f"return 308 https://{HOST}:{ports.https}",
        "server_name reef.example.org": f"server_name {HOST}",
        "/etc/letsencrypt/live/reef.example.org/fullchain.pem": str(certificate),
        "/etc/letsencrypt/live/reef.example.org/privkey.pem": str(key),
        "127.0.0.1:8080": f"127.0.0.1:{ports.reef}",
        "127.0.0.1:8090": f"127.0.0.1:{ports.grpc}",
    }
    (directory / "coral-reef.conf").write_text(_changed(text, changes), encoding="utf-8")
    main = directory / "nginx.conf"
    # the workers of a privileged nginx become another user, who may not look into this directory
    user = "user root;" if os.geteuid() == 0 else ""
    main.write_text(NGINX_MAIN.format(directory=directory, user=user), encoding="utf-8")
    return [program("nginx") or "nginx", "-p", str(directory), "-e", "stderr", "-c", str(main)]


def _caddy(directory: Path, ports: Ports, certificate: Path, key: Path) -> list[str]:
    changes = {
        "\n{\n": "\n{\n" + CADDY_MAIN.format(http=ports.http, https=ports.https),
        f"\n{NAME} {{\n": f"\n{HOST} {{\n\ttls {certificate} {key}\n",
        "127.0.0.1:8080": f"127.0.0.1:{ports.reef}",
        "127.0.0.1:8090": f"127.0.0.1:{ports.grpc}",
    }
    text = (DEPLOY / "caddy/Caddyfile").read_text(encoding="utf-8")
    file = directory / "Caddyfile"
    file.write_text(_changed(text, changes), encoding="utf-8")
    return [program("caddy") or "caddy", "run", "--config", str(file), "--adapter", "caddyfile"]


def _changed(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the file any more"
        text = text.replace(old, new)
    left = [line for line in text.splitlines() if NAME in line and not line.lstrip().startswith("#")]
    assert not left, left
    return text


def _wait(process: subprocess.Popen[bytes], ports: Ports, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", ports.https), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        else:
            return
