"""A PostgreSQL server of the tests' own, from Debian's package."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services import free_port


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def _as_postgres(arguments: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root; then it runs as the user its package made."""
    return (
        ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", *arguments]
        if os.geteuid() == 0
        else arguments
    )


@contextmanager
def running_postgres(
    addresses: str = "127.0.0.1", trusted: str = "", tls: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """URL of a server that listens there, without a database name.

    `trusted`: the network whose clients are let in, instead of this machine's. `tls`: certificate and key; who comes
    without it is refused.
    """
    programs = _programs()
    assert programs is not None, "PostgreSQL is not installed; `make test` installs Debian's package"
    base = Path(tempfile.mkdtemp(prefix="reef-postgres-", dir="/tmp"))
    files = [] if tls is None else [base / "server.crt", base / "server.key"]
    for path, source in zip(files, tls or (), strict=True):
        shutil.copyfile(source, path)
        path.chmod(0o600)
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        for path in (base, *files):
            os.chown(path, user.pw_uid, user.pw_gid)
    port = free_port()
    data = base / "data"

    def run(*arguments: str) -> None:
        subprocess.run(_as_postgres(list(arguments)), check=True, stdout=subprocess.DEVNULL, cwd="/tmp")

    try:
        run(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "reef", "--no-sync")
        if trusted:
            kind = "host" if tls is None else "hostssl"
            (data / "pg_hba.conf").write_text(f"local all all trust\n{kind} all all {trusted} trust\n")
        options = f"-c listen_addresses={addresses} -c port={port} -c unix_socket_directories={base} -c fsync=off"
        if tls is not None:
            options += f" -c ssl=on -c ssl_cert_file={files[0]} -c ssl_key_file={files[1]}"
        control = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(base / "log")]
        run(*control, "-o", options, "start")
        try:
            yield f"postgresql://reef@{addresses.partition(',')[0]}:{port}"
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(base, ignore_errors=True)
