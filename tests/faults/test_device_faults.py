"""Devices that cannot be opened, or die, in the whole product: told, left alone, replaced where the pool allows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import edge_tpus
import redis
from chat_client import ChatClient
from whole_product import SIMULATED_QUEUES, Reef, StartReef

from reef import keys
from reef.contracts.nodes import NodeReport, decode_report

EDGE_TPU = SIMULATED_QUEUES.replace("[simulated]", "[usb:0]")
WITH_FALLBACK = EDGE_TPU.replace("engine: simulated", "engine: simulated\n    cpu_fallback: true")
WAIT_S = 30.0


def report(reef: Reef, node: str) -> NodeReport | None:
    """What the worker of a device says about itself."""
    with redis.Redis.from_url(reef.settings.redis_url) as client:
        raw = client.hget(keys.NODES, node)
    return decode_report(raw) if raw else None


def wait_for(reef: Reef, node: str, wanted: Callable[[NodeReport], bool]) -> NodeReport:
    """The first report that is as wanted."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = report(reef, node)
        if found is not None and wanted(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_the_cpu_answers_for_a_device_whose_library_crashes(start_reef: StartReef, tmp_path: Path) -> None:
    """The probe dies, not the worker; people are answered; the operator reads why; a library that works is taken up."""
    library = tmp_path / "libedgetpu.so.1"
    edge_tpus.build(tmp_path, "broken_edge_tpu", "-DSEGFAULT").rename(library)
    reef = start_reef(WITH_FALLBACK, edgetpu_library=str(library), device_root=tmp_path)
    told = wait_for(reef, "chat-usb-0", lambda one: one.state == "ready" and bool(one.last_fault))
    assert told.fallback
    assert (told.device, told.kind) == ("usb:0", "edgetpu")
    assert "killed by SIGSEGV" in told.last_fault
    assert told.note.startswith("The CPU does the work of usb:0 until it works again")
    with ChatClient(reef.url) as chat:
        answered = chat.finish(chat.say("hello"))
    assert answered.final is not None
    assert answered.final["type"] == "done"
    assert next(one["device"] for one in answered.events if one["type"] == "started") == "cpu (in place of usb:0)"
    edge_tpus.build(tmp_path, "broken_edge_tpu", "-DMENDED").replace(library)
    back = wait_for(reef, "chat-usb-0", lambda one: one.state == "ready" and not one.fallback)
    assert back.pid != told.pid
    assert "killed by SIGSEGV" in back.last_fault


def test_a_device_without_a_stand_in_waits_and_says_so(start_reef: StartReef, tmp_path: Path) -> None:
    """`up` comes up beside it; the worker stays, in quarantine; when the device is there it serves."""
    reef = start_reef(EDGE_TPU, edgetpu_library=str(tmp_path / "none.so"), device_root=tmp_path)
    told = wait_for(reef, "chat-usb-0", lambda one: one.state == "quarantined")
    assert "none.so cannot be loaded" in told.note
    assert "tried again at" in told.note
    pid = told.pid
    edge_tpus.build(tmp_path, "broken_edge_tpu", "-DMENDED").rename(tmp_path / "none.so")
    served = wait_for(reef, "chat-usb-0", lambda one: one.state == "ready")
    assert (served.pid, served.fallback) == (pid, False)


def test_a_device_that_hangs_is_told(start_reef: StartReef) -> None:
    """The watchdog's end of a worker is a fault of its device: the next worker reports it."""
    reef = start_reef(SIMULATED_QUEUES.replace("hang_s: 10", "hang_s: 1").replace("attempts_max: 3", "attempts_max: 1"))
    with ChatClient(reef.url) as chat:
        chat.finish(chat.say("!hang 30"))
    told = wait_for(reef, "chat-simulated", lambda one: one.state == "ready" and bool(one.last_fault))
    assert "A call of the device did not come back within" in told.last_fault
