"""The web process: gunicorn with one gevent worker. `python -m app.serve`"""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
from pathlib import Path
from typing import Any

FILES_WANTED = 65_536
"""Open files: a socket per client, and Debian's default of 1024 is not many."""
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
    from reef.settings import SettingsError, load_settings

    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - there is no log yet
        return 2
    if not settings.redis_url:
        print("REEF_REDIS_URL is not set. `coral-reef up` starts a broker and this process with it.", file=sys.stderr)  # noqa: T201
        return 2
    _raise_file_limit()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    _server(settings).run()
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


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
