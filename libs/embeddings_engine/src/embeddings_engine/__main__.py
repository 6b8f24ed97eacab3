"""The command line: fetch a named model, build a checkpoint into a file that runs fast, embed lines of text."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from embeddings_engine.engine import EmbeddingsEngine
from embeddings_engine.errors import EmbeddingsError
from embeddings_engine.models import build_bundle, ensure_model


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it worked."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "fetch":
            print(ensure_model(options.model, options.cache_dir, _tell))
        elif options.command == "build":
            _build(options)
        else:
            _encode(options)
    except EmbeddingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m embeddings_engine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="fetch a named model's files and print their folder")
    fetch.add_argument("model")
    fetch.add_argument("--cache-dir", type=Path)
    build = commands.add_parser("build", help="build a bundle from a checkpoint folder (safetensors)")
    build.add_argument("checkpoint", type=Path)
    build.add_argument("out", type=Path)
    build.add_argument("--format", choices=("tflite", "onnx"), default="tflite")
    build.add_argument("--name", help="name of the model in the catalogue, for its prefixes and window")
    build.add_argument("--tokens", help="lengths of the signatures, as in 16,64,256")
    encode = commands.add_parser("encode", help="embed each line of standard input; prints one JSON array a line")
    encode.add_argument("--model", default="all-MiniLM-L6-v2")
    encode.add_argument("--device", default="auto")
    encode.add_argument("--cache-dir", type=Path)
    return parser


def _build(options: argparse.Namespace) -> None:
    started_s = time.monotonic()
    tokens = tuple(int(number) for number in options.tokens.split(",")) if options.tokens else None
    bundle = build_bundle(
        options.checkpoint, options.out, _tell, kind=options.format, name=options.name, signature_tokens=tokens
    )
    size = (bundle.folder / f"model.{options.format}").stat().st_size
    print(f"{bundle.name}: {size / 1e6:.1f} MB in {bundle.folder}, {time.monotonic() - started_s:.1f} s")


def _encode(options: argparse.Namespace) -> None:
    lines = [line.rstrip("\n") for line in sys.stdin]
    with EmbeddingsEngine(options.model, options.device, cache_dir=options.cache_dir, progress=_tell) as engine:
        for vector in engine.encode(lines) if lines else ():
            print(json.dumps([round(float(number), 6) for number in vector]))


def _tell(share: float, text: str) -> None:
    print(f"{share:4.0%}  {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
