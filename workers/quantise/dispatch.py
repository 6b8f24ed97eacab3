"""Which quantizer a file goes to, by what it is."""

from __future__ import annotations

from pathlib import Path

from reef.models.errors import ModelError
from reef.models.packages import free_bytes
from reef.ports import Progress
from workers.quantise import gguf
from workers.quantise.report import QuantiseError, Report


def quantise(
    source: Path, target: Path, to: str, progress: Progress, *, calibration: Path | None = None, tokens: int = 256
) -> Report:
    """Make a smaller model of this one and say what it cost. Raises QuantiseError, with nothing left behind."""
    if not source.is_file():
        raise QuantiseError(f"There is no file {source}.")
    if source.suffix != target.suffix:
        raise QuantiseError(f"{target} must end in {source.suffix}, as the source does: the format stays what it is.")
    if target.exists():
        raise QuantiseError(f"{target} is there already. Give another name, or delete it.")
    if not target.parent.is_dir():
        raise QuantiseError(f"There is no folder {target.parent}.")
    if free_bytes(target.parent) < source.stat().st_size * 2:
        raise QuantiseError(f"Too little room in {target.parent}: twice the size of {source.name} must be free.")
    try:
        return _by_format(source, target, to, progress, calibration, tokens)
    except ModelError as error:
        raise QuantiseError(str(error)) from error


def _by_format(
    source: Path, target: Path, to: str, progress: Progress, calibration: Path | None, tokens: int
) -> Report:
    if source.suffix == ".tflite":
        from workers.quantise.tflite import quantise_tflite

        return quantise_tflite(source, target, to, calibration, progress)
    if source.suffix == ".onnx":
        from workers.quantise.onnx import quantise_onnx

        return quantise_onnx(source, target, to, calibration, progress)
    if source.suffix != ".gguf":
        raise QuantiseError(f"{source} is no .gguf, .tflite or .onnx file.")
    gguf.check(source, to)
    from workers.quantise.perplexity import measure

    before = measure(source, lambda share, note: progress(share * 0.3, note), tokens)
    notes = gguf.quantise_gguf(source, target, to, lambda share, note: progress(0.3 + share * 0.4, note))
    try:
        after = measure(target, lambda share, note: progress(0.7 + share * 0.3, note), tokens)
    except QuantiseError:
        target.unlink()
        raise
    return Report(
        before=before,
        after=after,
        speed_unit="tokens/s",
        quality_name="perplexity",
        lower_is_better=True,
        notes=tuple(notes),
    )
