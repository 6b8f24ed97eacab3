// One device as a tile: made once, then only what changed is written, so that nothing jumps and focus stays.

import { h } from "../dom.js";
import { deviceLabel, dotState, heatWords, inTrouble, isDown, noteWords, ratesWords, shortModel, shortRate, stateWords, streamsWords } from "./words.js";

const STREAM_DOTS_MAX = 16;

export class Tile {
  /** `open(node)` when a person wants to see or move this device. */
  constructor(node, open) {
    this.node = node;
    this.name = h("span", { class: "tile-name" });
    this.dot = h("span", { class: "dot" });
    this.state = h("span", { class: "tile-state" });
    this.kind = h("span", { class: "tile-what" });
    this.model = h("span", { class: "tile-model" });
    this.streams = h("span", { class: "streams" });
    this.bar = h("span", { class: "load" }, h("i", {}));
    this.long = h("span", { class: "figures-long" });
    this.short = h("span", { class: "figures-short" });
    this.figures = h("span", { class: "tile-figures" }, this.long, this.short);
    this.note = h("span", { class: "tile-note" });
    this.button = h(
      "button",
      { type: "button", class: "tile", tabIndex: -1, "aria-haspopup": "dialog", dataset: { node }, onclick: () => open(node) },
      h("span", { class: "tile-head" }, this.name, h("span", { class: "chip" }, this.dot, this.state)),
      this.kind,
      this.model,
      this.bar,
      this.streams,
      this.figures,
      this.note,
    );
    this.element = h("li", {}, this.button);
  }

  draw(device, now) {
    const label = deviceLabel(device, now);
    if (this.device === device && this.label === label) return;
    this.device = device;
    this.label = label;
    this.button.setAttribute("aria-label", label);
    set(this.name, device.node);
    set(this.state, stateWords(device, now));
    this.dot.dataset.state = dotState(device, now);
    this.button.classList.toggle("down", isDown(device));
    this.button.classList.toggle("troubled", inTrouble(device, now));
    this.button.classList.toggle("limping", !isDown(device) && device.fallback);
    set(this.kind, [device.kind, device.simulated ? "" : device.host, device.tier === "pool" ? "" : device.tier].filter(Boolean).join(" · "));
    this.button.classList.toggle("simulated", device.simulated);
    set(this.model, shortModel(device.loading || device.model) || "no model");
    this.#load(device);
    const waiting = device.waiting ? `${device.waiting} waiting` : "";
    set(this.long, [ratesWords(device), heatWords(device.health), waiting].filter(Boolean).join(" · "));
    set(this.short, shortRate(device) || heatWords(device.health) || waiting);
    set(this.note, noteWords(device, now));
    this.button.title = noteWords(device, now);
  }

  /** What it is loading, or how many of its streams work. */
  #load(device) {
    const loading = device.state === "loading" || device.loading !== "";
    const share = loading ? device.progress : device.running / Math.max(1, device.streams);
    this.bar.classList.toggle("loading", loading);
    this.bar.style.setProperty("--share", String(Math.min(1, isDown(device) ? 0 : share)));
    const shown = `${device.running}/${device.streams}/${isDown(device)}`;
    if (this.shown === shown) return;
    this.shown = shown;
    const dots = device.streams <= STREAM_DOTS_MAX ? Array.from({ length: device.streams }, (_, index) => h("i", { class: index < device.running ? "on" : "" })) : [];
    this.streams.replaceChildren(...dots, h("span", { class: "streams-words" }, isDown(device) ? "–" : streamsWords(device)), h("span", { class: "streams-short" }, isDown(device) ? "–" : `${device.running}/${device.streams}`));
  }
}

function set(element, words) {
  if (element.textContent !== words) element.textContent = words;
}
