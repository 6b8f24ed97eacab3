// All devices: grouped, filtered, in tiles whose size follows their number; one of them is in the tab order.

import { arrange, byId, h } from "../dom.js";
import { keepPreference, preference } from "../keep.js";
import { plural } from "../documents/words.js";
import { Tile } from "./tile.js";
import { inTrouble, isBusy, isDown, shortModel } from "./words.js";

const COMPACT_FROM = 25;
const KEPT = "reef-devices";
const GROUPS = {
  pool: (device) => device.pool || "Without a pool",
  host: (device) => device.host || "This machine",
  tier: (device) => device.tier,
  kind: (device) => device.kind,
  none: () => "All devices",
};
const STATES = {
  any: () => true,
  busy: isBusy,
  idle: (device) => !isDown(device) && device.running === 0,
  trouble: inTrouble,
};

export class Grid {
  constructor(board, open) {
    this.board = board;
    this.open = open;
    this.tiles = new Map();
    this.groups = new Map();
    this.container = byId("device-groups");
    this.current = "";
    this.wanted = { group: "pool", state: "any", size: "auto", ...preference(KEPT, {}), query: "" };
    for (const name of ["group", "state", "size"]) this.#choice(name);
    byId("device-query").addEventListener("input", (event) => this.#want("query", event.target.value.trim().toLowerCase()));
    byId("devices-all").addEventListener("click", () => this.#showAll());
    this.container.addEventListener("keydown", (event) => this.#key(event));
    this.container.addEventListener("focusin", (event) => {
      this.current = event.target.dataset.node ?? this.current;
      this.#reach();
    });
    board.on("change", () => this.draw());
    board.on("fresh", () => this.draw());
  }

  #choice(name) {
    const field = byId(`device-${name}`);
    if (![...field.options].some((option) => option.value === this.wanted[name])) this.wanted[name] = field.options[0].value;
    field.value = this.wanted[name];
    field.addEventListener("change", () => this.#want(name, field.value));
  }

  #want(name, value) {
    this.wanted[name] = value;
    const { group, state, size } = this.wanted;
    keepPreference(KEPT, { group, state, size });
    this.draw();
  }

  #showAll() {
    byId("device-query").value = "";
    byId("device-state").value = "any";
    this.wanted.query = "";
    this.#want("state", "any");
    byId("device-query").focus();
  }

  #fits(device, now) {
    const { query, state } = this.wanted;
    const words = [device.node, device.device, device.kind, device.host, device.pool, device.tier, shortModel(device.model), device.model].join(" ").toLowerCase();
    return STATES[state](device, now) && query.split(/\s+/).every((word) => words.includes(word));
  }

  draw() {
    const { board } = this;
    if (!board.reef) return;
    const now = board.now;
    const all = [...board.devices.values()];
    const shown = all.filter((device) => this.#fits(device, now));
    const compact = this.wanted.size === "auto" ? all.length >= COMPACT_FROM : this.wanted.size === "compact";
    this.container.classList.toggle("compact", compact);
    const sorted = new Map();
    for (const device of shown) {
      const name = GROUPS[this.wanted.group](device);
      sorted.set(name, [...(sorted.get(name) ?? []), device]);
    }
    for (const node of this.tiles.keys()) if (!board.devices.has(node)) this.tiles.delete(node);
    arrange(this.container, [...sorted].map(([name, devices]) => this.#group(name, devices, now)));
    for (const name of this.groups.keys()) if (!sorted.has(name)) this.groups.delete(name);
    byId("devices-none").hidden = shown.length > 0;
    byId("devices-none-words").textContent = all.length ? "No device fits." : "queues.yaml names no device.";
    byId("devices-all").hidden = all.length === 0;
    byId("device-count").textContent = shown.length === all.length ? plural(all.length, "device") : `${shown.length} of ${plural(all.length, "device")}`;
    this.#reach();
  }

  #group(name, devices, now) {
    let group = this.groups.get(name);
    if (!group) {
      const id = `group-${name.replace(/\W+/g, "-")}`;
      group = { words: h("p", {}), list: h("ul", { class: "tiles", "aria-labelledby": id }) };
      group.element = h("section", { class: "device-group", "aria-labelledby": id }, h("div", { class: "group-head" }, h("h3", { id }, name), group.words), group.list);
      this.groups.set(name, group);
    }
    const words = groupWords(devices, now);
    if (group.words.textContent !== words) group.words.textContent = words;
    arrange(group.list, devices.map((device) => this.#tile(device, now).element));
    return group.element;
  }

  #tile(device, now) {
    const tile = this.tiles.get(device.node) ?? new Tile(device.node, this.open);
    this.tiles.set(device.node, tile);
    tile.draw(device, now);
    return tile;
  }

  get #buttons() {
    return [...this.container.querySelectorAll(".tile")];
  }

  /** One tile, the last that had the keyboard, is reached by Tab. */
  #reach() {
    const buttons = this.#buttons;
    const reached = buttons.find((button) => button.dataset.node === this.current) ?? buttons[0];
    for (const button of buttons) button.tabIndex = button === reached ? 0 : -1;
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !event.target.matches(".tile")) return;
    const buttons = this.#buttons;
    const at = buttons.indexOf(event.target);
    const to = {
      ArrowRight: () => buttons[at + 1],
      ArrowLeft: () => buttons[at - 1],
      ArrowDown: () => nearest(buttons, event.target, 1),
      ArrowUp: () => nearest(buttons, event.target, -1),
      Home: () => buttons[0],
      End: () => buttons.at(-1),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    to()?.focus();
  }

  focus() {
    (this.#buttons.find((button) => button.tabIndex === 0) ?? byId("device-query")).focus();
  }
}

/** The tile above or below, as the eye sees them. */
function nearest(buttons, from, direction) {
  const start = from.getBoundingClientRect();
  const middle = start.left + start.width / 2;
  let best = null;
  for (const button of buttons) {
    const box = button.getBoundingClientRect();
    const down = (box.top - start.top) * direction;
    if (down < start.height / 2) continue;
    const far = down * 4 + Math.abs(box.left + box.width / 2 - middle);
    if (!best || far < best.far) best = { button, far };
  }
  return best?.button;
}

function groupWords(devices, now) {
  const busy = devices.filter(isBusy).length;
  const troubled = devices.filter((device) => inTrouble(device, now)).length;
  const parts = [plural(devices.length, "device"), `${busy} busy`];
  if (troubled) parts.push(`${troubled} in trouble`);
  return parts.join(" · ");
}
