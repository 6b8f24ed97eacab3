"""`coral-reef plan`: what devices can do for a model and a load, by formulas and simulation: tables and a picture."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from cli.errors import Problem
from cli.options import data_dir_option, settings_with
from cli.plan_here import with_measured
from cli.show import table
from reef.models import ModelError
from reef.planning.compare import RUNS, SEED, megabytes, rate, seconds
from reef.planning.devices import DeviceSet, UnknownDevices, parse_devices
from reef.planning.models import DEFAULT, PlannedModel, UnknownModel, find_model
from reef.planning.plot_svg import draw
from reef.planning.report import Compared, Need, Nothing, Plan, make_plan
from reef.planning.verdict import EMBEDDING_TOKENS, Targets, UnknownTargets, load_targets
from reef.planning.workload import UnknownLoad, parse_load

WIDTH = 100
DEFAULT_DEVICES = ("edgetpu:48", "edgetpu:96")


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--devices", "device_texts", multiple=True, help="edgetpu:N, cpu:CORES, cuda:N or here:N; may be repeated."
)
@click.option("--load", "load_text", default="", help="NAME=VALUE,... such as conversations=24,reply=200 (see below).")
@click.option("--targets", default="spec", help="spec, or a YAML file with targets of your own.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw waiting and throughput there.")
@click.option("--runs", default=RUNS, type=click.IntRange(1, 100), show_default=True, help="Simulations of each.")
@click.option("--seed", default=SEED, show_default=True, help="The same seed prints the same plan.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_dir_option
def plan(  # noqa: PLR0913 - one parameter an option
    *,
    models: tuple[str, ...],
    device_texts: tuple[str, ...],
    load_text: str,
    targets: str,
    svg: Path | None,
    runs: int,
    seed: int,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Plan devices for a MODEL: a size (1B, 1.5B), a name (SmolLM2-135M, MiniLM-L6, E5-large, or one of the catalogue),
    or a .gguf or .tflite file. Without one: the specification's table and SmolLM2-135M, on 48 and 96 Edge TPUs.

    \b
    Devices   edgetpu:96   Edge TPUs, by formulas from published figures
              cpu:2        one CPU device of two cores, scaled from SmolLM2-135M as measured
              cuda:1       GPUs of 24 GB, at the bound of their data sheet
              here:4       four devices like this machine's, from the replies in its ledger
    Load      conversations=24,think_s=10   people who ask again after a pause, or
              turns_per_s=2,burst=8         turns at random whatever happens, eight at a time
              prompt=200,reply=120,lengths=lognormal|exponential|fixed
              personas=10,models=1,waiting_max=256,device_mtbf_h=720,repair_s=60

    Formulas, sources and how far the simulation can be believed: docs/planning.md.
    """
    settings = settings_with(data_dir=data_dir)
    try:
        load = parse_load(load_text)
        wanted = Targets() if targets == "spec" else load_targets(Path(targets))
        sets = [parse_devices(text) for text in device_texts or DEFAULT_DEVICES]
        sets = [with_measured(one, settings) if one.kind == "here" else one for one in sets]
        chosen = _models(models, sets, settings.data_dir / "models")
        made = make_plan(chosen, sets, load, wanted, runs, seed)
    except (UnknownLoad, UnknownTargets, UnknownDevices, UnknownModel, ModelError, Nothing) as error:
        raise Problem(str(error)) from None
    if svg is not None:
        try:
            svg.write_text(draw(made), encoding="utf-8")
        except OSError as error:
            raise Problem(f"{svg} cannot be written: {error.strerror}.") from None
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(made)).decode())
    else:
        show(made, Console(highlight=False, width=min(WIDTH, Console().width) if sys.stdout.isatty() else WIDTH))


def _models(texts: tuple[str, ...], sets: list[DeviceSet], folder: Path) -> list[PlannedModel]:
    if texts:
        return [find_model(text, (folder,)) for text in texts]
    own = [one.measured_model for one in sets if one.measured_model is not None]
    return own if len(own) == len(sets) else list(DEFAULT)


def show(made: Plan, console: Console) -> None:
    """The plan as tables."""
    tpus = any(one.kind == "edgetpu" for one in made.devices)
    if made.needs:
        counts = ", ".join(one.name for one in made.devices)
        _heading(console, f"One copy of a model; copies, and copies that are held on chip, on {counts}")
        console.print(_needs(made))
    if made.encodings:
        _heading(console, f"Vectors (texts of {EMBEDDING_TOKENS} tokens) and other networks, all devices together")
        console.print(_encodings(made))
    if made.compared:
        _heading(console, "Strategies under load, simulated")
        console.print(_load_line(made), style="dim", markup=False)
        console.print(_strategies(made))
        _heading(console, "Why")
        console.print(_reasons(made))
    if tpus:
        _heading(console, "Targets")
        console.print(_judgements(made))
        console.print()
        for note in made.notes:
            console.print(f"- {note}", markup=False)


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


def _needs(made: Plan) -> Table:
    rows = table(
        "model", "on", ">weights", ">to hold", ">a copy on", ">a token", ">first word", ">tok/s", ">all streams",
        ">copies", ">held",
    )  # fmt: skip
    rows.columns[0].no_wrap = True
    for need, same in _grouped(made.needs):
        rows.add_row(
            need.model,
            _kind(need.devices),
            megabytes(need.weight_bytes),
            f"{need.hold:,}",
            str(need.copy_devices),
            seconds(need.token_s),
            seconds(need.first_s),
            rate(need.tokens_per_s_one),
            rate(need.tokens_per_s_all),
            "/".join(str(one.copies) for one in same),
            "/".join(str(one.copies_held) for one in same),
        )
    return rows


def _grouped(needs: list[Need]) -> list[tuple[Need, list[Need]]]:
    """A copy is the same on 48 and on 96 Edge TPUs: one row for both."""
    groups: dict[tuple[object, ...], list[Need]] = {}
    for need in needs:
        alike = (need.model, _kind(need.devices), need.token_s, need.first_s)
        groups.setdefault(alike, []).append(need)
    return [(group[0], group) for group in groups.values()]


def _kind(devices: str) -> str:
    return devices.partition(":")[0]


def _encodings(made: Plan) -> Table:
    rows = table("model", "on", ">weights", ">devices hold all", ">most/s", ">usual/s", ">one at a time/s", "")
    for one in made.encodings:
        known = one.most_per_s > 0
        rows.add_row(
            one.model,
            one.devices,
            megabytes(one.weight_bytes),
            f"{one.hold:,}",
            rate(one.most_per_s) if known else "-",
            f"{rate(one.usual_per_s[0])}-{rate(one.usual_per_s[1])}" if known else "-",
            f"≤ {rate(one.streamed_per_s)}",
            one.note,
        )
    return rows


def _load_line(made: Plan) -> str:
    load = made.load
    if load.turns_per_s is None:
        talkers = sorted({(one.devices, one.conversations) for one in made.compared}, key=lambda pair: pair[1])
        who = ", ".join(f"{count} conversations on {name}" for name, count in talkers)
        who += f", {load.think_s:g} s of thought"
    else:
        who = f"{load.turns_per_s:g} turns/s" + (f" in bursts of {load.burst}" if load.burst > 1 else "")
    return (
        f"{who}; prompts of {load.prompt:g} and replies of {load.reply:g} tokens ({load.lengths}), "
        f"{load.personas} personas, {load.models} model{'s' if load.models > 1 else ''}; {made.runs} runs, the 95 % "
        f"confidence interval of tok/s within ±{_widest(made):.0%}"
    )


def _widest(made: Plan) -> float:
    spreads = [outcome.tokens_per_s for one in made.compared for outcome in one.outcomes if not outcome.impossible]
    shares = [one.half / one.mean for one in spreads if one.mean and math.isfinite(one.half)]
    return max(shares, default=math.nan)


def _strategies(made: Plan) -> Table:
    rows = table("model", "on", "strategy", ">units", ">TTFT p50", ">p95", ">tok/s", ">each", ">at most", ">busy", "")
    for one in made.compared:
        for number, outcome in enumerate(one.outcomes):
            names = (one.model, one.devices) if number == 0 else ("", "")
            if outcome.impossible:
                rows.add_row(*names, outcome.strategy, *["-"] * 7, "")
                continue
            rows.add_row(
                *names,
                outcome.strategy,
                f"{outcome.units}×{outcome.stages}",
                seconds(outcome.ttft_p50_s.mean),
                seconds(outcome.ttft_p95_s.mean),
                rate(outcome.tokens_per_s.mean),
                rate(outcome.each_tokens_per_s.mean),
                rate(outcome.most_tokens_per_s),
                f"{outcome.busy_share.mean:.0%}",
                _mark(one, outcome.strategy)
                + (f" {outcome.refused_share:.0%} refused" if outcome.refused_share else ""),
            )
    return rows


def _mark(one: Compared, strategy: str) -> str:
    return "best" if one.best == strategy else ""


def _reasons(made: Plan) -> Table:
    rows = table("model", "on", "best", "because")
    for one in made.compared:
        rows.add_row(one.model, one.devices, one.best, one.why)
    return rows


def _judgements(made: Plan) -> Table:
    rows = table("target", "wanted", "on", "possible", "because")
    before = ""
    for line in made.judgements:
        rows.add_row(
            "" if line.target == before else line.target, line.specified, line.devices, line.answer, line.because
        )
        before = line.target
    for column in rows.columns[1:4]:
        column.no_wrap = True
    return rows
