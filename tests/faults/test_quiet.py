"""Nothing phones home: the running product sends no packet beyond the loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from whole_product import DEFAULT_MODEL, REAL_DATA, real_encoder

from reef.models import ModelStore

ROOT = Path(__file__).parents[2]
SETUP = """
ip link set lo up
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null || true
ip link add wire0 type veth peer name wire1
ip addr add 192.0.2.2/24 dev wire0
ip link set wire1 up
ip link set wire0 arp off up
ip route add default dev wire0
exec "$0" tests/faults/quiet_program.py wire0 "$1"
"""


def may_unshare() -> bool:
    """Whether this user may make a network namespace with an interface in it."""
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


@pytest.mark.timeout(420)
def test_no_packet_leaves_the_machine(tmp_path: Path) -> None:
    """Everything runs with its real engines, files are read and indexed, questions answered: the wire stays silent."""
    if not may_unshare():
        pytest.skip("this user may not make a network namespace; run the tests as root")
    ModelStore(REAL_DATA).pull(DEFAULT_MODEL, lambda share, note: None)
    real_encoder()
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    ran = subprocess.run(
        ["unshare", "--net", "sh", "-ec", SETUP, sys.executable, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["text"]
    assert "citation" in result["types"]
    assert result["states"] == dict.fromkeys(("tides.pdf", "handbook.docx", "hello.py"), "indexed")
    assert result["answer"] == "tides.pdf"
    assert set(result["checks"].values()) == {"ok"}
    assert {"pool chat", "pool embed", "pool index", "vectors"} <= result["checks"].keys()
    assert result["seen"] == ["protocol 17 to 192.0.2.1: probe"], "only the test's own probe"
