"""Parsing children: limited, recycled, replaced when they die, ended at once when they must, gone with their owner."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from awkward_documents import PAGES_3000, pdf
from awkward_files import ENGLISH

from reef.knowledge.parsing.child import NICE
from reef.knowledge.parsing.limits import MIB, ParseLimits
from reef.knowledge.parsing.pool import ParserPool
from reef.ports import Cancelled, ParseFailed

ROOT = Path(__file__).resolve().parents[3]
CANCEL_MAX_S = 0.5
WAIT_S = 20.0
MakePool = Callable[..., ParserPool]


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    """Makes pools that are closed at the end."""
    made: list[ParserPool] = []

    def make(processes: int = 1, limits: ParseLimits | None = None, **options: int) -> ParserPool:
        pool = ParserPool(processes, limits or ParseLimits(), tmp_path / "scratch", **options)
        made.append(pool)
        pool.start()
        return pool

    yield make
    for pool in made:
        pool.close()


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """A file that is read in a moment."""
    path = tmp_path / "note.txt"
    path.write_text(ENGLISH)
    return path


@pytest.fixture
def long_pdf(tmp_path: Path) -> Path:
    """A file that keeps a child busy for longer than a few milliseconds."""
    path = tmp_path / "long.pdf"
    path.write_bytes(pdf(PAGES_3000))
    return path


def read(pool: ParserPool, path: Path) -> str:
    """The file's text."""
    return pool.parse(path, path.name, threading.Event()).text


def test_a_killed_child_costs_its_file_and_nothing_else(make_pool: MakePool, note: Path) -> None:
    """A child that died while it waited is replaced before the next file is asked for."""
    pool = make_pool()
    (first,) = pool.pids()
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)], timeout=WAIT_S)
    assert "coral" in read(pool, note)
    assert pool.pids() != [first]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGSEGV, "corrupt"), (signal.SIGKILL, "memory")])
def test_a_death_over_a_file_is_that_files_failure(
    make_pool: MakePool, note: Path, number: signal.Signals, code: str
) -> None:
    """A crash is the file's fault; a kill that was not ours is the kernel out of memory. The next file is read."""
    pool = make_pool()
    (child,) = pool.pids()
    os.kill(child, signal.SIGSTOP)  # it will not answer before it dies
    failures: list[ParseFailed] = []

    def try_it() -> None:
        try:
            read(pool, note)
        except ParseFailed as error:
            failures.append(error)

    reader = threading.Thread(target=try_it)
    before = pool.steps()
    reader.start()
    _until(lambda: pool.steps() >= before + 2)  # one for the seat, and the next while an answer is waited for
    os.kill(child, number)
    with contextlib.suppress(ProcessLookupError):  # a kill does not wait for it
        os.kill(child, signal.SIGCONT)
    reader.join(WAIT_S)
    assert [failure.code for failure in failures] == [code]
    assert "coral" in read(pool, note)


def test_a_file_that_takes_too_long_is_given_up(make_pool: MakePool, note: Path) -> None:
    """The clock ends a child that does not answer, whatever it is doing; the next file gets a fresh one."""
    pool = make_pool(limits=ParseLimits(time_s=0.3))
    (child,) = pool.pids()
    os.kill(child, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ParseFailed) as failure:
        read(pool, note)
    assert failure.value.code == "too_slow"
    assert time.monotonic() - began < WAIT_S
    assert not psutil.pid_exists(child)
    pool.limits = ParseLimits()
    assert "coral" in read(pool, note)


def test_a_cancelled_file_ends_within_half_a_second(make_pool: MakePool, note: Path) -> None:
    """Also where the child hears nobody, and also for a file that still waits for a child.

    The best of three counts: the machine may stand still in between.
    """
    pool = make_pool()
    took_s = [_cancelled_in_s(pool, note)]
    while min(took_s) >= CANCEL_MAX_S and len(took_s) < 3:
        assert "coral" in read(pool, note)
        took_s.append(_cancelled_in_s(pool, note))
    assert min(took_s) < CANCEL_MAX_S
    assert "coral" in read(pool, note)


def _cancelled_in_s(pool: ParserPool, note: Path) -> float:
    """How long two readers of a child that hears nothing take to end."""
    (child,) = pool.pids()
    os.kill(child, signal.SIGSTOP)
    cancel = threading.Event()
    ended: list[float] = []

    def try_it() -> None:
        try:
            pool.parse(note, note.name, cancel)
        except Cancelled:
            ended.append(time.monotonic())

    readers = [threading.Thread(target=try_it) for _ in range(2)]
    for reader in readers:
        reader.start()
    _until(lambda: not pool.pids())
    began = time.monotonic()
    cancel.set()
    for reader in readers:
        reader.join(WAIT_S)
    assert len(ended) == 2
    assert not psutil.pid_exists(child)
    return max(ended) - began


def test_closing_ends_files_in_flight(make_pool: MakePool, note: Path) -> None:
    """A worker that goes down waits for no file, and leaves no process behind."""
    pool = make_pool()
    (child,) = pool.pids()
    os.kill(child, signal.SIGSTOP)
    ended = threading.Event()

    def try_it() -> None:
        try:
            read(pool, note)
        except Cancelled:
            ended.set()

    reader = threading.Thread(target=try_it)
    reader.start()
    _until(lambda: not pool.pids())
    pool.close()
    assert ended.wait(WAIT_S)
    reader.join(WAIT_S)
    assert not psutil.pid_exists(child)


def test_memory_is_limited(make_pool: MakePool, tmp_path: Path, note: Path) -> None:
    """A file whose text takes more memory than allowed fails as such, and only it."""
    pool = make_pool(limits=ParseLimits(memory_bytes_max=700 * MIB, characters_max=10**9))
    hungry = tmp_path / "hungry.txt"
    hungry.write_text("é" * 45_000_000)
    with pytest.raises(ParseFailed) as failure:
        read(pool, hungry)
    assert failure.value.code == "memory"
    assert "coral" in read(pool, note)


def test_processor_time_is_limited_for_each_file_anew(make_pool: MakePool, note: Path) -> None:
    """The limit grows with what a child has used, so an old child is not ended by its age."""
    pool = make_pool(limits=ParseLimits(time_s=5.0))
    (child,) = pool.pids()
    read(pool, note)
    soft = psutil.Process(child).rlimit(psutil.RLIMIT_CPU)[0]
    used = sum(psutil.Process(child).cpu_times()[:2])
    assert 5 <= soft - used <= 9


def test_children_are_bound(make_pool: MakePool) -> None:
    """Before they read anything: no core dumps, little to write, least priority."""
    pool = make_pool()
    child = psutil.Process(pool.pids()[0])
    limits = ParseLimits()
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_AS)[1] == limits.memory_bytes_max
    assert child.rlimit(psutil.RLIMIT_FSIZE)[1] == limits.written_bytes_max
    assert child.nice() > psutil.Process().nice() or child.nice() == 19
    group = Path(f"/proc/{child.pid}/autogroup")  # only where the kernel has them
    assert not group.exists() or group.read_text(encoding="ascii").endswith(f"nice {NICE}\n")
    assert not child.net_connections()


def test_children_have_no_network(make_pool: MakePool) -> None:
    """Where the kernel lets a process leave the network, children do."""
    allowed = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("this machine forbids user namespaces; children do without the empty network then")
    pool = make_pool()
    assert os.readlink(f"/proc/{pool.pids()[0]}/ns/net") != os.readlink("/proc/self/ns/net")


def test_a_child_sees_no_secrets(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and addresses in the worker's environment are not passed on."""
    monkeypatch.setenv("CORAL_REEF_API_KEY", "sk-secret")
    pool = make_pool()
    assert "sk-secret" not in str(psutil.Process(pool.pids()[0]).environ())


def test_children_are_recycled(make_pool: MakePool, note: Path) -> None:
    """After so many files a fresh child takes over: native parsers leak a little."""
    pool = make_pool(files_max=2)
    (first,) = pool.pids()
    read(pool, note)
    assert pool.pids() == [first]
    read(pool, note)
    assert pool.pids() == []
    assert not psutil.pid_exists(first)
    read(pool, note)
    assert len(pool.pids()) == 1


def test_a_child_that_grew_is_recycled(make_pool: MakePool, long_pdf: Path) -> None:
    """Memory that a file left behind goes with the child that read it."""
    pool = make_pool(rss_growth_max_bytes=1)
    (first,) = pool.pids()
    read(pool, long_pdf)
    assert pool.pids() == []
    assert not psutil.pid_exists(first)
    read(pool, long_pdf)


def test_many_threads_share_few_children(make_pool: MakePool, note: Path) -> None:
    """Ten threads on two children: every file is read, two processes do it."""
    pool = make_pool(processes=2)
    pids = set(pool.pids())
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(read(pool, note))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert texts == [texts[0]] * 10
    assert set(pool.pids()) == pids


def test_children_end_with_their_owner(tmp_path: Path) -> None:
    """kill -9 of the worker leaves no parser behind, not even one in the middle of a file."""
    program = (
        "import pathlib, sys, threading\n"
        "from reef.knowledge.parsing.limits import ParseLimits\n"
        "from reef.knowledge.parsing.pool import ParserPool\n"
        "pool = ParserPool(2, ParseLimits(), pathlib.Path(sys.argv[1]))\n"
        "pool.start()\n"
        "print(*pool.pids(), flush=True)\n"
        "threading.Event().wait()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert owner.stdout is not None
    children = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
    assert len(children) == 2
    owner.kill()
    owner.wait()
    owner.stdout.close()
    _, left = psutil.wait_procs(children, timeout=WAIT_S)
    assert left == []


def test_a_child_loads_only_what_it_needs() -> None:
    """Neither the queue library nor the database, web server or a model is imported in a child."""
    program = (
        "import os, sys\nfrom reef.knowledge.parsing import child, reading\nreading.warm()\n"
        "print(*sys.modules, flush=True)\nos._exit(0)"  # as a child ends: what it loaded may not end well
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"celery", "kombu", "redis", "flask", "sqlalchemy", "chromadb", "numpy", "tokenizers"})


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not true():
        assert time.monotonic() < deadline
        pause.wait(0.005)


def test_a_slow_file_is_progress(make_pool: MakePool, note: Path) -> None:
    """Steps go on while a child is busy with one file, and stand still when there is none to read."""
    pool = make_pool(limits=ParseLimits(time_s=30.0))
    (pid,) = pool.pids()
    os.kill(pid, signal.SIGSTOP)
    reading = threading.Thread(target=read, args=(pool, note))
    before = pool.steps()
    reading.start()
    deadline = time.monotonic() + WAIT_S
    while pool.steps() < before + 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert reading.is_alive()
    os.kill(pid, signal.SIGCONT)
    reading.join(WAIT_S)
    after = pool.steps()
    time.sleep(0.3)
    assert pool.steps() == after


def test_scratch_is_emptied_at_the_start(tmp_path: Path, make_pool: MakePool, note: Path) -> None:
    """What children of a killed worker left is gone; the new ones find their directory."""
    left = tmp_path / "scratch" / "left" / "over.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a page")
    pool = make_pool()
    assert not left.parent.exists()
    assert read(pool, note)
