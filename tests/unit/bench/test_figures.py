"""The arithmetic and the text of the benches."""

from __future__ import annotations

import math

from bench.figures import mb, median, ms, percentile, ratio
from bench.machine import this_machine
from bench.report import Goal, Report, Table


def test_a_percentile_is_a_sample_that_was_measured() -> None:
    """Nearest rank: no interpolation between samples, the largest at 100 %."""
    samples = [float(n) for n in range(1, 101)]
    assert percentile(samples, 0.95) == 95.0
    assert percentile(samples, 1.0) == 100.0
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0


def test_no_samples_make_no_figure() -> None:
    """Nothing is not zero: a table shows a dash."""
    assert math.isnan(percentile([], 0.95))
    assert math.isnan(median([]))
    assert ms(median([])) == "–"


def test_figures_carry_their_units() -> None:
    """Small times keep a decimal, large ones do not pretend to."""
    assert (ms(0.0042), ms(1.2345), mb(151_400_000), ratio(3, 2), ratio(1, 0)) == (
        "4.2 ms",
        "1234 ms",
        "151 MB",
        "1.50×",
        "–",
    )


def test_a_report_is_markdown_with_command_machine_and_goals() -> None:
    """What is pasted into a document says how it was made and what was missed."""
    report = Report(name="x", title="A title", command='make bench BENCH="x"', machine=this_machine())
    report.tables.append(Table(["what", "p50"], [["this", "1 ms"]]))
    report.goals += [Goal("under 2 ms", "1 ms", True), Goal("under 1 ms", "1 ms", False)]
    text = report.markdown()
    assert "| what | p50 |\n| --- | ---: |\n| this | 1 ms |" in text
    assert 'make bench BENCH="x"' in text
    assert f"{report.machine.cores} cores of" in text
    assert "- met: under 2 ms (measured: 1 ms)" in text
    assert "- **missed**: under 1 ms (measured: 1 ms)" in text
