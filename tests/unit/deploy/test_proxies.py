"""The times and settings that deploy/nginx and deploy/caddy speak of are those of the product."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app import serve, sockets, sse
from app.api import chat, openai
from reef.settings import PREFIX, Settings
from reef.topology import load_topology
from websocket_fabric import Limits

ROOT = Path(__file__).resolve().parents[3]
NGINX = ROOT / "deploy/nginx/coral-reef.conf"
CADDY = ROOT / "deploy/caddy/Caddyfile"


def block(opening: str) -> str:
    """What nginx's file says in the block that begins with this line."""
    return NGINX.read_text(encoding="utf-8").partition(f"{opening} {{\n")[2].partition("\n    }\n")[0]


def seconds(text: str, directive: str) -> int:
    """The value of a directive that is a time."""
    (value,) = re.findall(rf"^\s*{directive} (\d+)s;?$", text, re.MULTILINE)
    return int(value)


def test_nginx_waits_longer_than_the_reef_is_silent() -> None:
    """A stream has a heartbeat, a WebSocket a ping, and a reply in one piece its deadline, before nginx gives up."""
    deadline_s = load_topology(ROOT / "queues.yaml").pools["chat"].limits.deadline_s
    api_s = seconds(block("location ~ ^/(api/)?v1/"), "proxy_read_timeout")
    assert api_s > deadline_s + chat.GRACE_S
    assert api_s > max(sse.HEARTBEAT_S, openai.COMMENT_EVERY_S)
    limits = Limits()
    ws_s = seconds(block("location = /ws"), "proxy_read_timeout")
    assert ws_s > max(sockets.PING_EVERY_S, limits.idle_timeout_s + limits.ping_timeout_s)


def test_proxies_leave_idle_connections_first() -> None:
    """Whoever reuses a connection must have closed it before the reef does."""
    assert seconds(NGINX.read_text(encoding="utf-8"), "keepalive_timeout") < serve.KEEPALIVE_S
    assert seconds(CADDY.read_text(encoding="utf-8"), "keepalive") < serve.KEEPALIVE_S


def test_streams_and_uploads_are_not_buffered_by_nginx() -> None:
    """Tokens leave as they come, and files arrive as they are sent."""
    for opening in ("location ~ ^/(api/)?v1/", "location ~ ^/api/v1/(uploads|documents/upload)", "location = /ws"):
        assert "proxy_buffering off;" in block(opening), opening
    assert "proxy_request_buffering off;" in block("location ~ ^/api/v1/(uploads|documents/upload)")


@pytest.mark.parametrize("file", [NGINX, CADDY])
def test_settings_are_real_and_the_port_is_the_default(file: Path) -> None:
    """What the comments tell the operator to set exists."""
    text = file.read_text(encoding="utf-8")
    known = {PREFIX + name.upper() for name in Settings.__struct_fields__}
    named = set(re.findall(r"REEF_[A-Z_]+", text))
    assert {"REEF_REQUIRE_API_KEY", "REEF_ALLOWED_ORIGINS", "REEF_GRPC_PORT"} <= named <= known
    assert f"127.0.0.1:{Settings().port}" in text
