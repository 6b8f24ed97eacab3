// The queues: how many wait, since when, how long a new job would wait. A row is made once; then figures are written.

import { arrange, byId, h } from "../dom.js";
import { isDown, span } from "./words.js";

/** Of the columns; a phone shows them beside each figure. */
const TITLES = { oldest: "Oldest", wait: "New job waits", running: "Running", devices: "Devices" };

export class Queues {
  constructor(board) {
    this.board = board;
    this.rows = new Map();
    board.on("change", () => this.draw());
    board.on("fresh", () => this.draw());
  }

  draw() {
    const { board } = this;
    if (!board.reef) return;
    const served = [...board.pools.values()].filter((pool) => pool.running || pool.waiting || board.devicesOf(pool.name).length);
    arrange(byId("queue-rows"), served.map((pool) => this.#row(pool)));
    const idle = [...board.pools.keys()].filter((name) => !served.some((pool) => pool.name === name));
    byId("queues-idle").textContent = idle.length ? `No device serves: ${idle.join(", ")}.` : "";
  }

  #row(pool) {
    let row = this.rows.get(pool.name);
    if (!row) {
      row = Object.fromEntries(Object.entries(TITLES).map(([name, title]) => [name, h("td", { role: "cell", class: name, dataset: { title } })]));
      row.count = h("span", {});
      row.bar = h("span", { class: "load", "aria-hidden": "true" }, h("i", {}));
      row.wait.title = "An estimate from the last jobs; – while nothing was measured";
      row.element = h("tr", { role: "row" }, h("th", { role: "rowheader", scope: "row" }, pool.name), h("td", { role: "cell", class: "waiting", dataset: { title: "Waiting" } }, row.count, row.bar), row.oldest, row.wait, row.running, row.devices);
      this.rows.set(pool.name, row);
    }
    const devices = this.board.devicesOf(pool.name);
    const up = devices.filter((device) => !isDown(device)).length;
    row.bar.style.setProperty("--share", String(Math.min(1, pool.waiting / pool.waiting_max)));
    row.element.classList.toggle("full", pool.waiting >= pool.waiting_max);
    row.element.classList.toggle("unserved", up === 0 && pool.waiting > 0);
    const words = {
      count: `${pool.waiting} of ${pool.waiting_max}`,
      oldest: pool.oldest_at === null ? "–" : span(this.board.now - pool.oldest_at),
      wait: up ? span(pool.wait_s) : "no device",
      running: `${pool.running} of ${pool.streams}`,
      devices: up === devices.length ? String(up) : `${up} of ${devices.length}`,
    };
    for (const [name, text] of Object.entries(words)) if (row[name].textContent !== text) row[name].textContent = text;
    return row.element;
  }
}
