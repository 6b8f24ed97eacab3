// What the page knows of the reef: told whole once over the live line, then by what changed. Where no WebSocket gets
// through, asked for every two seconds. Draws nothing.
//
// Topics: "change" (tables changed), "device_changed" and "model" (events), "connection", "fresh" (once a second),
// "say" (words for a screen reader), "answer" (what came of something a person did), "trouble" (a problem to show),
// "outage" (why nothing newer is known, or ""), "doors" (the gateway and the open sockets, which the live line cannot
// tell: each process knows only its own).

import { Bus } from "../bus.js";
import * as api from "../api.js";
import { Live } from "../live.js";
import * as calls from "./calls.js";

const ASK_EVERY_MS = 2_000;
const DOORS_EVERY_MS = 10_000;
const TICK_MS = 1_000;
const ASKED = { running: 100, queued: 50, dead: 50 };
const TABLES = ["pools", "devices", "jobs"];

export class Board extends Bus {
  constructor() {
    super();
    this.reef = null;
    this.pools = new Map();
    this.devices = new Map();
    this.jobs = new Map();
    this.doors = { gateway: "", sockets: 0 };
    this.at = 0;
    this.heardAt = 0;
    this.outage = "";
    this.connection = "connecting";
    this.live = new Live({ onEvent: (event) => this.#heard(event), onState: (state) => this.#became(state) });
  }

  /** Unix seconds by the server's clock. */
  get now() {
    return this.at + (this.heardAt ? (Date.now() - this.heardAt) / 1000 : 0);
  }

  devicesOf(pool) {
    return [...this.devices.values()].filter((device) => device.pool === pool);
  }

  jobsIn(state) {
    return [...this.jobs.values()].filter((job) => job.state === state);
  }

  start() {
    this.live.watchSystem(true);
    this.live.start();
    setInterval(() => this.emit("fresh"), TICK_MS);
    setInterval(() => this.connection === "open" && document.visibilityState === "visible" && this.#askDoors(), DOORS_EVERY_MS);
    // nobody looks: the reef need not be looked at for us
    document.addEventListener("visibilitychange", () => this.live.watchSystem(document.visibilityState === "visible"));
  }

  #heard(event) {
    if (event.type === "system") this.#merge(event);
    else if (event.type === "device_changed" || event.type === "model") this.emit(event.type, event);
    else if (event.type === "error") this.trouble(event);
  }

  #merge(event) {
    if (event.trouble) {
      this.#setOutage(event.trouble);
      return;
    }
    const { snapshot = false } = event;
    this.at = event.at;
    this.heardAt = Date.now();
    this.#setOutage("");
    if (event.reef) this.reef = { ...this.reef, ...event.reef };
    let changed = snapshot || event.reef !== undefined;
    for (const table of TABLES) {
      if (snapshot) this[table].clear();
      for (const [name, row] of Object.entries(event[table] ?? {})) {
        if (row === null) this[table].delete(name);
        else this[table].set(name, { ...this[table].get(name), ...row });
        changed = true;
      }
    }
    if (changed) this.emit("change");
  }

  #setOutage(words) {
    if (words === this.outage) return;
    this.outage = words;
    this.emit("outage", words);
  }

  #became(state) {
    this.connection = state;
    this.emit("connection", state);
    if (state === "sse") this.#askOn();
    if (state === "open") this.#askDoors();
  }

  async #askDoors() {
    try {
      this.#setDoors(await api.status());
    } catch {
      this.#setDoors({});
    }
  }

  #setDoors({ gateway = "", sockets_open: sockets = 0 }) {
    this.doors = { gateway, sockets };
    this.emit("doors");
  }

  /** Without a WebSocket: ask, as long as that is so. */
  async #askOn() {
    if (this.asking) return;
    this.asking = true;
    while (this.connection === "sse") {
      if (document.visibilityState === "visible") await this.#ask();
      await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS));
    }
    this.asking = false;
  }

  async #ask() {
    try {
      const [status, ...lists] = await Promise.all([api.status(), ...Object.entries(ASKED).map(([state, limit]) => calls.jobs(state, limit))]);
      this.#setDoors(status);
      this.#merge(asSnapshot(status, lists.flat()));
    } catch (problem) {
      this.#setOutage(problem.message);
    }
  }
}

function asSnapshot({ pools, unplaced, at, ...reef }, jobs) {
  const devices = [...pools.flatMap((pool) => pool.devices), ...unplaced];
  const table = (rows, key) => Object.fromEntries(rows.map((row) => [row[key], row]));
  return { at, snapshot: true, reef, pools: table(pools, "name"), devices: table(devices, "node"), jobs: table(jobs, "id") };
}
