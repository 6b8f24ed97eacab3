"""How well a .gguf model predicts a text that it has not seen, and how fast it writes. One engine, one conversation.

The engine is asked, token by token, how likely it found the one that really follows: the sampler is made to choose it,
and the probability that is reported is the one before any sampling.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from reef.ports import Progress
from reef.settings import inherited_environment
from workers.engines.llama import environment
from workers.quantise.report import Measured, QuantiseError

TOKENS = 256
"""Of the text, unless more or fewer are asked for."""
WARM_TOKENS = 16
"""The first tokens have too little before them to say anything about the model."""
WRITE_TOKENS = 48
FORCE = 1000.0
"""Added to a token's score, so that it is chosen."""
TIMEOUT_S = 60.0
CODE = Path(__file__).resolve().parents[2]


def measure(path: Path, progress: Progress, tokens_max: int = TOKENS) -> Measured:
    """Size, written tokens a second, and perplexity on the shipped text. Raises QuantiseError.

    In a process of its own: the engine's threads need variables that must be there when it is loaded, and a file that
    brings the engine down brings down nothing else.
    """
    command = [sys.executable, "-m", __name__, str(path.absolute()), str(tokens_max)]
    variables = inherited_environment() | environment()
    said: _Said | None = None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables, cwd=CODE, text=True
    ) as child:
        try:
            for line in child.stdout or ():
                said = msgspec.json.decode(line, type=_Said)
                if said.note:
                    progress(said.share, said.note)
        finally:
            child.kill()
    if said is None or said.measured is None:
        why = said.error if said is not None and said.error else f"the engine ended with status {child.returncode}"
        raise QuantiseError(f"{path} cannot be measured: {why}")
    return said.measured


class _Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the measuring process."""

    share: float = 0.0
    note: str = ""
    measured: Measured | None = None
    error: str = ""


def _say(said: _Said) -> None:
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()


def _measure_here(path: Path, tokens_max: int) -> Measured:
    reader = _Reader(path)
    try:
        ids = reader.tokens(resources.files("workers.quantise").joinpath("reading.txt").read_text(encoding="utf-8"))
        ids = ids[: max(tokens_max, 2 * WARM_TOKENS)]
        total = 0.0
        for place in range(WARM_TOKENS, len(ids)):
            total -= reader.log_probability(ids[:place], ids[place])
            _say(_Said(share=(place + 1) / len(ids), note=f"Reading {path.name}: {place + 1} of {len(ids)} tokens"))
        perplexity = math.exp(total / max(1, len(ids) - WARM_TOKENS))
        speed = reader.tokens_per_s(ids[:WARM_TOKENS])
    finally:
        reader.close()
    return Measured(size_bytes=path.stat().st_size, speed=round(speed, 1), quality=round(perplexity, 3))


class _Reader:
    def __init__(self, path: Path) -> None:
        import xllamacpp

        threads = len(os.sched_getaffinity(0))
        self._key = secrets.token_urlsafe(16)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_parallel, parameters.n_ctx = 1, 4096
        parameters.n_batch = parameters.n_ubatch = 64
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.api_keys, parameters.ui, parameters.verbosity = [self._key], False, 0
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except Exception as error:
            raise QuantiseError(f"llama.cpp cannot load {path}: {error}") from error
        self._complete([0], 1)  # a server that is deleted before its first answer hangs

    def tokens(self, text: str) -> list[int]:
        """A text as the model reads it."""
        address = urlsplit(self._server.listening_address)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
            connection.request("POST", "/tokenize", json.dumps({"content": text, "add_special": True}), headers)
            return [int(token) for token in json.loads(connection.getresponse().read())["tokens"]]
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            raise QuantiseError(f"llama.cpp does not read the text: {error}") from error
        finally:
            connection.close()

    def log_probability(self, before: list[int], token: int) -> float:
        """How likely this token is after those."""
        answer = self._complete(before, 1, logit_bias=[[token, FORCE]])
        said = answer["choices"][0]["logprobs"]["content"][0]
        if said["id"] != token:
            raise QuantiseError("llama.cpp did not answer about the token it was asked about; is this its version?")
        return float(said["logprob"])

    def tokens_per_s(self, before: list[int]) -> float:
        """How fast it writes after a short prompt, alone on the device."""
        answer = self._complete(before, WRITE_TOKENS, ignore_eos=True)
        return float(answer["timings"]["predicted_per_second"])

    def _complete(self, prompt: list[int], tokens: int, **more: Any) -> Mapping[str, Any]:
        got: list[Mapping[str, Any]] = []
        body = {
            "prompt": prompt,
            "n_predict": tokens,
            "n_probs": 1,
            "temperature": 0,
            "cache_prompt": True,
            "stream": False,
        }

        def heard(answer: Mapping[str, Any]) -> bool:
            got.append(answer)
            return False

        try:
            self._server.handle_completions(body | more, heard)
        except (RuntimeError, ValueError) as error:
            raise QuantiseError(f"llama.cpp failed: {error}") from error
        if not got or "choices" not in got[-1]:
            raise QuantiseError(f"llama.cpp answers: {str(got)[:300]}")
        return got[-1]

    def close(self) -> None:
        """Free it."""
        self._server = None


def main() -> None:
    """The measuring process: a path and a number of tokens; tells JSON, a line each."""
    path, tokens = sys.argv[1:]
    try:
        _say(_Said(measured=_measure_here(Path(path), int(tokens))))
    except QuantiseError as error:
        _say(_Said(error=str(error)))


if __name__ == "__main__":
    main()
