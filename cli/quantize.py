"""`coral-reef quantize`: a model in fewer bits, with size, speed and quality before and after."""

from __future__ import annotations

from pathlib import Path

import click

from cli.errors import Problem
from cli.options import data_dir_option, settings_with
from cli.show import Show, plain_console, size, table
from reef.models import ModelError, ModelStore
from workers.quantise.report import Measured, QuantiseError, Report


@click.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--to",
    required=True,
    metavar="TYPE",
    help=".gguf: Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0 and others; .tflite and .onnx: int8-dynamic or int8.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Examples of input (.npz: an array for each input, first axis the examples). Needed for int8.",
)
@click.option("--tokens", default=256, show_default=True, type=click.IntRange(32, 4000), help="Text for perplexity.")
@data_dir_option
def quantize(source: str, target: Path, to: str, calibration: Path | None, tokens: int, data_dir: object) -> None:
    """Store a model's numbers in fewer bits: SOURCE (a file, or the name of a model here) becomes the file TARGET.

    Prints size, speed and quality before and after: perplexity on a shipped text for .gguf (lower is better), cosine
    agreement of the outputs for the others (1 is the same).
    """
    from workers.quantise.dispatch import quantise

    path = _source(source, data_dir)
    with Show() as show:
        try:
            report = quantise(
                path,
                target,
                to,
                lambda share, note: show.progress(path.name, share, note),
                calibration=calibration,
                tokens=tokens,
            )
        except QuantiseError as error:
            raise Problem(str(error)) from None
        show.done(path.name, f"{target} is written")
    _print(report, path, target)


def _source(source: str, data_dir: object) -> Path:
    if Path(source).suffix or "/" in source:
        return Path(source)
    try:
        return ModelStore(settings_with(data_dir=data_dir).data_dir).resolve_part(source).path
    except ModelError as error:
        raise Problem(str(error)) from None


def _print(report: Report, source: Path, target: Path) -> None:
    rows = table("", ">size", f">{report.speed_unit}", f">{report.quality_name}")
    for path, measured in ((source, report.before), (target, report.after)):
        rows.add_row(path.name, *_row(measured))
    rows.add_row("", *_change(report))
    console = plain_console()
    console.print(rows)
    for note in report.notes:
        console.print(note)


def _row(measured: Measured) -> tuple[str, str, str]:
    return size(measured.size_bytes), f"{measured.speed:g}", "" if measured.quality is None else f"{measured.quality:g}"


def _change(report: Report) -> tuple[str, str, str]:
    before, after = report.before, report.after
    quality = ""
    if before.quality and after.quality:
        quality = f"{after.quality / before.quality - 1:+.1%}"
    return f"{after.size_bytes / before.size_bytes:.0%}", f"{after.speed / before.speed - 1:+.0%}", quality
