"""The web process: gunicorn with one gevent worker. `python -m app.serve`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

CONNECTIONS_MAX = 2_000
GRACE_S = 5
KEEPALIVE_S = 30
"""An idle connection is closed after this; proxies close theirs earlier (deploy/nginx, deploy/caddy)."""
HANG_S = 60
"""A worker whose event loop stands still this long is replaced."""


def main() -> int:
    """Serve until a signal says stop."""
    from gevent import monkey

    monkey.patch_all()  # before anything else is imported, or threads and sockets would block the loop
    from app.process import begin

    _server(begin()).run()
    return 0


def _server(settings: Any) -> Any:
    from gunicorn.app.base import BaseApplication

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    options: dict[str, Any] = {
        "bind": f"{host}:{settings.port}",
        "workers": 1,
        "worker_class": "app.gevent_worker.ReefWorker",
        "worker_connections": CONNECTIONS_MAX,
        "timeout": HANG_S,
        "graceful_timeout": GRACE_S,
        "keepalive": KEEPALIVE_S,
        "limit_request_line": 8190,
        "limit_request_fields": 100,
        "limit_request_field_size": 8190,
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "warning",
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108 - a heartbeat file
    }

    class Server(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in options.items():
                if value is not None:
                    self.cfg.set(name, value)

        def load(self) -> Any:
            from app.factory import create_app

            return create_app(settings)

    return Server()


if __name__ == "__main__":
    sys.exit(main())
