// The last hour in four small charts, drawn as SVG by hand. They follow the pool that is chosen.

import { byId, h } from "../dom.js";
import * as calls from "./calls.js";
import { clockTime, rate, span } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const HOUR_S = 3600;
const WIDTH = 300;
const HEIGHT = 64;
const AGAIN_MS = 5_000;
const sum = (pools, field) => pools.reduce((total, pool) => total + pool[field], 0);
const CHARTS = [
  { id: "tokens", title: "Tokens a second", value: (pools) => sum(pools, "tokens_per_s"), words: rate, least: 1 },
  { id: "inferences", title: "Inferences a second", value: (pools) => sum(pools, "inferences_per_s"), words: rate, least: 1, optional: true },
  { id: "depth", title: "Jobs waiting", value: (pools) => sum(pools, "queued"), words: String, least: 4 },
  { id: "busy", title: "Busy devices", value: (pools) => sum(pools, "busy"), of: (pools) => sum(pools, "devices"), words: String, least: 1 },
  { id: "wait", title: "Wait of a new job", value: (pools) => Math.max(0, ...pools.map((pool) => pool.wait_s ?? 0)), words: span, least: 1 },
];

export class Charts {
  constructor(board) {
    this.board = board;
    this.samples = [];
    this.charts = CHARTS.map((kind) => new Chart(kind));
    this.pool = byId("history-pool");
    this.note = byId("history-note");
    byId("charts").replaceChildren(...this.charts.map((chart) => chart.element));
    this.pool.addEventListener("change", () => this.draw());
    board.on("change", () => this.#choices());
    this.#follow();
  }

  #choices() {
    const names = ["", ...this.board.pools.keys()];
    if (names.length === this.pool.options.length) return;
    const { value } = this.pool;
    this.pool.replaceChildren(...names.map((name) => h("option", { value: name }, name || "All pools")));
    this.pool.value = names.includes(value) ? value : "";
  }

  async #follow() {
    for (;;) {
      const step = document.visibilityState === "visible" ? await this.#ask() : AGAIN_MS;
      await new Promise((resolve) => setTimeout(resolve, step));
    }
  }

  async #ask() {
    try {
      const { step_s: stepS, samples } = await calls.history(this.samples.at(-1)?.at ?? 0);
      const known = [...this.samples, ...samples];
      const oldest = (known.at(-1)?.at ?? 0) - HOUR_S;
      this.samples = known.filter((sample) => sample.at > oldest);
      this.stepS = stepS;
      this.note.textContent = this.samples.length ? "" : "The first sample comes within ten seconds.";
      this.draw();
      return this.samples.length ? stepS * 1000 : AGAIN_MS;
    } catch (problem) {
      this.note.textContent = `${problem.message} The charts end where it was last heard of.`;
      return AGAIN_MS;
    }
  }

  draw() {
    const name = this.pool.value;
    const points = this.samples.map(({ at, pools }) => ({ at, pools: Object.entries(pools).filter(([pool]) => !name || pool === name).map(([, sample]) => sample) }));
    for (const chart of this.charts) chart.draw(points, this.stepS);
  }
}

class Chart {
  constructor(kind) {
    this.kind = kind;
    this.now = h("span", { class: "chart-now" });
    this.most = h("span", { class: "chart-most" });
    this.svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "chart" });
    this.area = element("path", { class: "chart-area" });
    this.line = element("path", { class: "chart-line", "vector-effect": "non-scaling-stroke" });
    this.mark = element("path", { class: "chart-mark", "vector-effect": "non-scaling-stroke" });
    this.svg.append(this.area, this.line, this.mark);
    this.element = h("figure", { class: "chart-box", id: `chart-${kind.id}` }, h("figcaption", {}, h("span", { class: "chart-title" }, kind.title), this.now), this.svg, h("p", { class: "chart-scale", "aria-hidden": "true" }, h("span", {}, "1 h ago"), this.most, h("span", {}, "now")));
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#rest());
    this.values = [];
  }

  draw(points, stepS) {
    const { kind } = this;
    this.values = points.map(({ at, pools }) => ({ at, value: kind.value(pools), of: kind.of?.(pools) }));
    const most = Math.max(0, ...this.values.map(({ value }) => value));
    this.element.hidden = kind.optional === true && most === 0;
    this.top = Math.max(kind.least, most, ...this.values.map(({ of }) => of ?? 0));
    this.end = this.values.at(-1)?.at ?? 0;
    const runs = unbroken(this.values, stepS * 3);
    this.line.setAttribute("d", runs.map((run) => this.#path(run)).join(""));
    this.area.setAttribute("d", runs.map((run) => `${this.#path(run)}L${this.#x(run.at(-1).at)} ${HEIGHT}L${this.#x(run[0].at)} ${HEIGHT}Z`).join(""));
    this.most.textContent = this.values.length ? `most ${kind.words(most)}` : "";
    this.#rest();
    const last = this.values.at(-1);
    this.svg.setAttribute("aria-label", last ? `${kind.title} in the last hour: now ${this.#words(last)}, at most ${kind.words(most)}` : `${kind.title}: no samples yet`);
  }

  #path(run) {
    return run.map(({ at, value }, index) => `${index ? "L" : "M"}${this.#x(at)} ${this.#y(value)}`).join("");
  }

  #x(at) {
    return (WIDTH * (1 - (this.end - at) / HOUR_S)).toFixed(1);
  }

  #y(value) {
    return (HEIGHT - 2 - ((HEIGHT - 4) * value) / this.top).toFixed(1);
  }

  #words({ value, of }) {
    return of === undefined ? this.kind.words(value) : `${value} of ${of}`;
  }

  #rest() {
    const last = this.values.at(-1);
    this.now.textContent = last ? this.#words(last) : "–";
    this.mark.setAttribute("d", "");
  }

  /** The sample under the pointer, with its time. */
  #point(event) {
    if (!this.values.length) return;
    const box = this.svg.getBoundingClientRect();
    const at = this.end - HOUR_S * (1 - (event.clientX - box.left) / box.width);
    const found = this.values.reduce((best, one) => (Math.abs(one.at - at) < Math.abs(best.at - at) ? one : best));
    this.now.textContent = `${clockTime(found.at)} · ${this.#words(found)}`;
    this.mark.setAttribute("d", `M${this.#x(found.at)} 0V${HEIGHT}`);
  }
}

/** A time without samples is a gap in the line. */
function unbroken(values, gapS) {
  const runs = [];
  for (const value of values) {
    const run = runs.at(-1);
    if (run && value.at - run.at(-1).at <= gapS) run.push(value);
    else runs.push([value]);
  }
  return runs;
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
