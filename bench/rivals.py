"""Starting contenders (bench/contender.py) and asking them. One process each, idle while another one is asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench.contender import Answers, Prompt, Round
from bench.machine import ROOT


class Rival:
    """A contender in its process."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.contender", kind],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def wait_ready(self) -> None:
        """Wait until its model is loaded. Raises RuntimeError where it ended instead."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"{self.kind} did not start; run `python -m bench.contender {self.kind}` to see why")

    def answer(self, prompts: list[Prompt], tokens_max: int) -> Answers:
        """Ask it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(Round(prompts, tokens_max)) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.kind} died (exit {self._process.wait()})")
        return msgspec.json.decode(line, type=Answers)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def rivals(*kinds: str) -> Iterator[dict[str, Rival]]:
    """Loaded contenders by kind, loaded one after the other."""
    started: dict[str, Rival] = {}
    try:
        for kind in kinds:
            started[kind] = Rival(kind)
            started[kind].wait_ready()
        yield started
    finally:
        for rival in started.values():
            rival.close()
