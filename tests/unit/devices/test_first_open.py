"""A device may kill, or hold for ever, the process that opens it first: each way becomes a sentence in bounded time."""

from __future__ import annotations

import re
import time
from pathlib import Path

import edge_tpus
import pytest

from workers.devices.first_open import ask, turn
from workers.devices.wire import Question


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["-DABORT"], r"killed by SIGABRT: .*transfer on tag 0 failed"),
        (["-DSEGFAULT"], r"killed by SIGSEGV"),
        (["-DMISFIT"], r"killed by SIGSEGV.*does not match the runtime"),
        ([], r"gives no device usb:0: absent, or held by another process"),
    ],
)
def test_a_device_that_fails_is_described(libraries: Path, flags: list[str], says: str) -> None:
    """The signal, the library's last words and what helps stand in the answer; this process goes on."""
    library = edge_tpus.build(libraries, "broken_edge_tpu", *flags)
    trial = ask(Question(library=str(library), bus="usb", device="usb:0"))
    assert re.search(says, trial.problem), trial.problem


def test_a_device_that_hangs_is_given_up(libraries: Path) -> None:
    """The process that waits for it is ended after its time."""
    library = edge_tpus.build(libraries, "broken_edge_tpu", "-DHANG")
    began = time.monotonic()
    trial = ask(Question(library=str(library), bus="usb", device="usb:0"), timeout_s=1.0)
    assert "within 1 s: the device hangs" in trial.problem
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("library", "says"),
    [("libno_such_thing.so", "cannot be loaded.*Install libedgetpu"), ("libc.so.6", "is no delegate")],
)
def test_a_library_that_is_none_is_named(library: str, says: str) -> None:
    """Missing, or another library altogether: the setting that names it is told."""
    trial = ask(Question(library=library))
    assert re.search(says, trial.problem)
    assert "REEF_EDGETPU_LIBRARY" in trial.problem


def test_a_library_lists_what_it_sees(root: Path, listing: Path) -> None:
    """Without a device in the question nothing is opened; the list is the library's own."""
    edge_tpus.add_pcie(root, "apex_0", "1")
    stick = edge_tpus.add_usb(root, "1-1")
    trial = ask(Question(library=str(listing)))
    assert [(one.bus, Path(one.path).name) for one in trial.listed or ()] == [("pci", "apex_0"), ("usb", "1-1")]
    assert (stick / "idVendor").read_text().strip() == "1a6e"


def test_workers_open_their_sticks_one_by_one(tmp_path: Path) -> None:
    """Who finds another at it waits, and goes on beside it when that takes too long."""
    with turn(tmp_path / "run" / "opening"):
        began = time.monotonic()
        with turn(tmp_path / "run" / "opening", timeout_s=0.3):
            assert time.monotonic() - began >= 0.3
    began = time.monotonic()
    with turn(tmp_path / "run" / "opening", timeout_s=60.0):
        assert time.monotonic() - began < 20, "the turn was given back"
