"""The picture of a plan: waiting for the first word and throughput of each strategy, as an SVG drawn by hand.

One row a model, logarithmic axes, a mark for each strategy and set of devices. Colours follow the reader's light or
dark setting, and every mark has a shape and a title of its own, so that nothing rests on colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

import msgspec

from reef.planning.compare import Outcome, rate, seconds
from reef.planning.report import Compared, Plan
from reef.planning.strategies import STRATEGIES

WIDTH, LEFT, GAP, RIGHT = 960, 128, 36, 24
TOP, ROW, BOTTOM = 112, 52, 64
PANEL = (WIDTH - LEFT - GAP - RIGHT) / 2
SHAPES = {"dedicated": "circle", "dynamic": "square", "pipeline": "diamond"}
STYLE = """
  svg { color-scheme: light dark; font: 13px system-ui, sans-serif;
        --ink: #1b2a33; --dim: #5a6b75; --line: #d5dde1; --page: #ffffff; --band: #f3f6f8;
        --dedicated: #b3470b; --dynamic: #0b6fa8; --pipeline: #1d7a4a; --target: #a3174e; }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6edf1; --dim: #9fb0ba; --line: #33434d; --page: #10191f; --band: #172229;
          --dedicated: #ff9d5c; --dynamic: #64bdf2; --pipeline: #63d297; --target: #ff7fb0; }
  }
  .page { fill: var(--page); } .band { fill: var(--band); }
  text { fill: var(--ink); } .dim { fill: var(--dim); font-size: 11.5px; } .head { font-weight: 600; font-size: 14px; }
  .grid { stroke: var(--line); stroke-width: 1; }
  .target { stroke: var(--target); stroke-width: 1.5; stroke-dasharray: 5 3; } .targets { fill: var(--target); }
  .mark { stroke-width: 2; }
  .dedicated { stroke: var(--dedicated); fill: var(--dedicated); }
  .dynamic { stroke: var(--dynamic); fill: var(--dynamic); }
  .pipeline { stroke: var(--pipeline); fill: var(--pipeline); }
  .hollow { fill: var(--page); }
"""


class _Axis:
    """A logarithmic axis that begins and ends at a power of ten."""

    def __init__(self, left: float, values: Sequence[float]) -> None:
        known = [value for value in values if value > 0 and math.isfinite(value)] or [1.0]
        self.low = math.floor(math.log10(min(known)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(known))))
        self.left = left

    def place(self, value: float) -> float:
        share = (math.log10(max(value, 10**self.low)) - self.low) / (self.high - self.low)
        return self.left + 10 + share * (PANEL - 20)

    @property
    def ticks(self) -> list[float]:
        return [float(10**power) for power in range(self.low, self.high + 1)]


class _Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One axis of the picture and what is drawn on it."""

    head: str
    left: float
    target: float
    label: str
    value: Callable[[Outcome], float]
    shown: Callable[[float], str]
    tick: Callable[[float], str]


def draw(plan: Plan) -> str:
    """The whole picture. Plans without a model that writes give a picture that says so."""
    models = list(dict.fromkeys(one.model for one in plan.compared))
    sets = list(dict.fromkeys(one.devices for one in plan.compared))
    height = TOP + ROW * max(1, len(models)) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="plan-title plan-desc">',
        '<title id="plan-title">Waiting for the first word and tokens per second, by strategy</title>',
        f'<desc id="plan-desc">{escape(_description(plan))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
    ]
    if not models:
        parts.append('<text x="24" y="40">No model that writes was planned: there is nothing to draw.</text>')
        return "\n".join([*parts, "</svg>", ""])
    parts += _legend(sets)
    for place, name in enumerate(models):
        top = TOP + ROW * place
        if place % 2 == 0:
            parts.append(f'<rect class="band" x="12" y="{top}" width="{WIDTH - 24}" height="{ROW}"/>')
        parts.append(f'<text x="20" y="{top + ROW / 2 + 4:.0f}">{escape(name)}</text>')
    largest = max(plan.devices, key=lambda one: one.devices)
    wanted = plan.targets.tokens_per_s * largest.devices / plan.targets.at_devices
    panels = (
        _Panel(
            head="First word, 95 of 100 come sooner (less is better)",
            left=LEFT,
            target=plan.targets.ttft_s,
            label=f"wanted: {seconds(plan.targets.ttft_s)}",
            value=lambda one: one.ttft_p95_s.mean,
            shown=seconds,
            tick=lambda tick: f"{tick * 1000:g} ms" if tick < 1 else f"{tick:,g} s",
        ),
        _Panel(
            head="Tokens/s with every stream in use (more is better)",
            left=LEFT + PANEL + GAP,
            target=wanted,
            label=f"wanted of {largest.name}: {rate(wanted)}",
            value=lambda one: one.most_tokens_per_s,
            shown=rate,
            tick=lambda tick: f"{tick:,g}",
        ),
    )
    for panel in panels:
        parts += _panel(panel, plan.compared, models, sets)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: _Panel, compared: Sequence[Compared], models: list[str], sets: list[str]) -> list[str]:
    marks = [(one, outcome) for one in compared for outcome in one.outcomes if not outcome.impossible]
    axis = _Axis(panel.left, [panel.target, *(panel.value(outcome) for _, outcome in marks)])
    bottom = TOP + ROW * len(models)
    parts = [f'<text class="head" x="{panel.left:.0f}" y="{TOP - 34}">{escape(panel.head)}</text>']
    for tick in axis.ticks:
        x = axis.place(tick)
        text = panel.tick(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="dim" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>')
    x = axis.place(panel.target)
    anchor = "start" if x < panel.left + PANEL * 0.6 else "end"
    parts.append(f'<line class="target" x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}"/>')
    parts.append(
        f'<text class="dim targets" x="{x:.1f}" y="{TOP - 13}" text-anchor="{anchor}">{escape(panel.label)}</text>'
    )
    for one, outcome in marks:
        number = panel.value(outcome)
        if not math.isfinite(number) or number <= 0:
            continue
        y = TOP + ROW * models.index(one.model) + ROW * (STRATEGIES.index(outcome.strategy) + 1) / 4
        title = f"{one.model}, {outcome.strategy} on {one.devices}: {panel.shown(number)}"
        hollow = sets.index(one.devices) % 2 == 0 and len(sets) > 1
        parts.append(_mark(outcome.strategy, axis.place(number), y, title, hollow=hollow))
    return parts


def _mark(strategy: str, x: float, y: float, title: str, *, hollow: bool) -> str:
    names = f"mark {strategy}{' hollow' if hollow else ''}"
    inside = f"<title>{escape(title)}</title>"
    shape = SHAPES[strategy]
    if shape == "circle":
        return f'<circle class="{names}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{inside}</circle>'
    if shape == "square":
        return f'<rect class="{names}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{inside}</rect>'
    points = f"{x:.1f},{y - 5.5:.1f} {x + 5.5:.1f},{y:.1f} {x:.1f},{y + 5.5:.1f} {x - 5.5:.1f},{y:.1f}"
    return f'<polygon class="{names}" points="{points}">{inside}</polygon>'


def _legend(sets: Sequence[str]) -> list[str]:
    parts, x = [], 24.0
    for strategy in STRATEGIES:
        parts.append(_mark(strategy, x, 28, strategy, hollow=False))
        parts.append(f'<text x="{x + 12:.0f}" y="32">{strategy}</text>')
        x += 36 + 8 * len(strategy)
    x += 24
    for place, name in enumerate(sets):
        word = "hollow" if place % 2 == 0 and len(sets) > 1 else "filled"
        parts.append(f'<text class="dim" x="{x:.0f}" y="32">{word}: {escape(name)}</text>')
        x += 44 + 7 * (len(word) + len(name))
    return parts


def _description(plan: Plan) -> str:
    """The picture in words, for who cannot see it."""
    lines = []
    for one in plan.compared:
        told = [
            f"{o.strategy} {seconds(o.ttft_p95_s.mean)} and {rate(o.most_tokens_per_s)} tokens/s"
            for o in one.outcomes
            if not o.impossible
        ]
        lines.append(f"{one.model} on {one.devices}: {', '.join(told)}.")
    return " ".join(lines)
