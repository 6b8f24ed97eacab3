// The status page: asks every two seconds while somebody looks.

import * as api from "./api.js";
import { byId, h } from "./dom.js";
import { themeToggle } from "./views/theme.js";

const EVERY_MS = 2_000;
const STREAM_DOTS_MAX = 16;
const STATES = { loading: "Loading", ready: "Ready", busy: "Busy", draining: "Draining", failed: "Failed", quarantined: "Out of use for now", missing: "Not running" };
const DOWN = new Set(["failed", "missing", "quarantined"]);

let answeredAt = 0;
let version = "";

function fact(term, value, { aside = "", trouble = false, href = "" } = {}) {
  const shown = href ? h("a", { href, target: "_blank", rel: "noopener" }, value) : value;
  return h("div", {}, h("dt", {}, term), h("dd", { class: trouble ? "trouble" : "" }, shown, aside ? h("span", { class: "aside" }, aside) : null));
}

function facts(status) {
  const { runs, model } = status;
  return [
    fact("Model", model?.title || model?.name || "none", { aside: model?.demo ? "Demo size: quick, often wrong" : "" }),
    fact("Replies", `${runs.running} being written`, { aside: `${runs.queued} waiting` }),
    fact("Given up", String(runs.dead), { trouble: runs.dead > 0, aside: runs.dead ? "See “coral-reef status”" : "" }),
    fact("Document index", { ok: "In order", down: "Down", off: "Not in use" }[status.vectors], { trouble: status.vectors === "down" }),
    fact("Broker", status.broker === "ok" ? "In order" : "Down", { trouble: status.broker !== "ok" }),
    fact("Database", { sqlite: "SQLite", postgresql: "PostgreSQL" }[status.database] ?? status.database),
    status.flower_url ? fact("Tasks", "Open Flower", { href: status.flower_url }) : null,
  ].filter(Boolean);
}

function meter(share, label) {
  const percent = Math.round(Math.max(0, Math.min(1, share)) * 100);
  return h(
    "div",
    { class: "meter", role: "meter", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(percent) },
    h("i", { style: { "--share": String(percent / 100) } }),
  );
}

function streams(device) {
  const words = `${device.running} of ${device.streams} streams in use`;
  const dots = device.streams <= STREAM_DOTS_MAX ? Array.from({ length: device.streams }, (_, index) => h("i", { class: index < device.running ? "on" : "", "aria-hidden": "true" })) : [];
  return h("p", { class: "streams" }, dots, h("span", {}, words));
}

function tile(device) {
  const what = [device.engine, device.model].filter(Boolean).join(" · ");
  return h(
    "li",
    { class: "tile", dataset: { state: device.state } },
    h(
      "div",
      { class: "tile-head" },
      h("h3", {}, device.device || device.node),
      h("span", { class: "chip" }, h("span", { class: "dot", dataset: { state: device.state } }), STATES[device.state] ?? device.state),
    ),
    what ? h("p", { class: "what" }, what) : null,
    device.simulated ? h("p", { class: "simulated" }, "Simulated: for planning and tests, answers nobody") : null,
    device.state === "loading" ? meter(device.progress ?? 0, `Loading ${device.model}`) : null,
    device.note && device.note !== STATES[device.state] ? h("p", { class: "note" }, device.note) : null,
    DOWN.has(device.state) ? null : streams(device),
    h("p", { class: "what" }, `Process ${device.node}`),
  );
}

function pool(entry) {
  const waiting = entry.waiting_max ? `${entry.waiting} of ${entry.waiting_max} waiting` : `${entry.waiting} waiting`;
  return h(
    "section",
    { class: "pool", "aria-labelledby": `pool-${entry.name}` },
    h(
      "div",
      { class: "pool-head" },
      h("h2", { id: `pool-${entry.name}` }, entry.name),
      h("p", {}, `${entry.running} running · ${waiting}`),
      entry.waiting_max ? meter(entry.waiting / entry.waiting_max, `Queue ${entry.queue}`) : null,
    ),
    h("ul", { class: "tiles" }, entry.devices.map(tile)),
  );
}

/** Pools that queues.yaml gives no device, in one line: there is nothing to watch in them. */
function idlePools(pools) {
  const names = pools.map((entry) => entry.name);
  return names.length ? h("p", { class: "none" }, `No device serves: ${names.join(", ")}.`) : null;
}

function pools(status) {
  const served = status.pools.filter((entry) => entry.devices.length || entry.running || entry.waiting);
  return [...served.map(pool), idlePools(status.pools.filter((entry) => !served.includes(entry)))].filter(Boolean);
}

function tellFreshness() {
  const ago = Math.round((Date.now() - answeredAt) / 1000);
  byId("freshness").textContent = answeredAt === 0 ? "Asking the reef…" : ago <= EVERY_MS / 1000 + 1 ? `Live · version ${version}` : `Last answer ${ago} s ago`;
}

async function refresh() {
  if (document.visibilityState === "visible") {
    const banner = byId("banner");
    try {
      const status = await api.status();
      answeredAt = Date.now();
      version = status.version;
      banner.hidden = true;
      byId("facts").replaceChildren(...facts(status));
      byId("pools").replaceChildren(...pools(status));
    } catch (problem) {
      banner.textContent = `${problem.message} Trying again…`;
      banner.hidden = false;
    }
    tellFreshness();
  }
  setTimeout(refresh, EVERY_MS);
}

themeToggle();
refresh();
