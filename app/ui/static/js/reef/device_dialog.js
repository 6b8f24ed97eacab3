// One device in full, live while it is open, and what a person may decide about it: its pool, its model.

import { byId, h, icon } from "../dom.js";
import { confirm } from "../views/confirm.js";
import * as calls from "./calls.js";
import { bytes } from "../documents/words.js";
import { clockTime, heatWords, isDown, isMoving, noteWords, ratesWords, span, stateWords, streamsWords, tierWords } from "./words.js";

export class DeviceDialog {
  /** `models`: names that can be offered. */
  constructor(board, models) {
    this.board = board;
    this.models = models;
    this.dialog = byId("device-dialog");
    this.dialog.addEventListener("close", () => (this.node = null));
    board.on("change", () => this.node && this.#draw());
    board.on("fresh", () => this.node && this.#draw());
  }

  get device() {
    return this.board.devices.get(this.node);
  }

  open(node) {
    this.node = node;
    const { device } = this;
    if (!device) return;
    this.facts = h("dl", { class: "device-facts" });
    this.note = h("p", { class: "device-note" });
    this.back = h("button", { type: "button", class: "button small", onclick: () => this.#takeBack() }, icon("back"), h("span", {}, "Take back the decision"));
    this.error = h("p", { class: "field-error", role: "alert", hidden: true });
    this.dialog.replaceChildren(
      h("div", { class: "dialog-head" }, h("h2", { id: "device-title" }, device.node), h("button", { type: "button", class: "icon-button", "aria-label": "Close", onclick: () => this.dialog.close() }, icon("close"))),
      this.note,
      this.facts,
      this.#form(device),
    );
    this.#draw();
    this.dialog.showModal();
  }

  #form(device) {
    const pools = device.movable ? [...this.board.pools.keys()] : [device.pool];
    const options = pools.map((name) => h("option", { value: name }, name));
    if (device.movable) options.push(h("option", { value: "" }, "None: let it rest"));
    this.pool = h("select", { id: "device-pool", disabled: !device.movable }, options);
    this.pool.value = device.place?.pool ?? device.pool;
    this.model = h("input", { id: "device-model", type: "text", list: "device-models", maxLength: 200, autocomplete: "off", spellcheck: false, placeholder: "The pool’s own", value: device.place?.model ?? "" });
    const hint = device.movable ? "What it works on is finished first." : "queues.yaml gives it to this pool for good; its model can be chosen.";
    const form = h(
      "form",
      { class: "place-form", "aria-label": "What it should serve" },
      h("h3", {}, "What it should serve"),
      h("div", { class: "field" }, h("label", { for: "device-pool" }, "Pool"), this.pool),
      h("div", { class: "field" }, h("label", { for: "device-model" }, "Model"), this.model, h("datalist", { id: "device-models" }, this.models().map((name) => h("option", { value: name })))),
      h("p", { class: "hint" }, hint),
      this.error,
      h("div", { class: "dialog-actions" }, this.back, h("button", { type: "submit", class: "button primary" }, "Decide…")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#place();
    });
    return form;
  }

  #draw() {
    const { device } = this;
    if (!device) {
      this.dialog.close();
      return;
    }
    this.note.textContent = noteWords(device, this.board.now);
    this.note.classList.toggle("bad", isDown(device));
    this.back.hidden = device.place?.decided_by !== "operator";
    const facts = factsOf(device, this.board.now);
    const shown = JSON.stringify(facts);
    if (shown === this.shown) return;
    this.shown = shown;
    this.facts.replaceChildren(...facts.map(([term, words]) => h("div", {}, h("dt", {}, term), h("dd", {}, words))));
  }

  async #place() {
    const { node, device } = this;
    const [pool, model] = [this.pool.value, this.model.value.trim()];
    const leaves = pool !== device.pool && device.pool;
    const alone = leaves && this.board.devicesOf(device.pool).filter((other) => !isDown(other)).length === 1 && !isDown(device);
    const text = [
      device.running ? `${device.running === 1 ? "One job runs" : `${device.running} jobs run`} on it now; that is finished first.` : "Nothing runs on it now.",
      alone ? `It is the only device that serves ${device.pool}: what waits there would wait on.` : "",
      "The decision holds until you take it back.",
    ].join(" ");
    const title = pool ? `Let ${node} serve ${pool}${model ? ` with ${model}` : ""}?` : `Let ${node} rest?`;
    if (!(await confirm({ title, text, yes: "Decide" }))) return;
    await this.#do(() => calls.place(node, pool, model), `Decided: ${pool ? `${node} serves ${pool}` : `${node} rests`}. Its worker follows.`);
  }

  async #takeBack() {
    const { node } = this;
    const text = "It does again what queues.yaml or the strategy says.";
    if (!(await confirm({ title: `Take back the decision about ${node}?`, text, yes: "Take it back" }))) return;
    await this.#do(() => calls.takeBack(node), `The decision about ${node} is taken back.`);
  }

  async #do(action, told) {
    this.error.hidden = true;
    try {
      await action();
      this.board.answer(told);
      this.dialog.close();
    } catch (problem) {
      this.error.textContent = problem.message;
      this.error.hidden = false;
    }
  }
}

function factsOf(device, now) {
  const { health, place } = device;
  const memory = health.memory_used_bytes ? `${bytes(health.memory_used_bytes)}${health.memory_total_bytes ? ` of ${bytes(health.memory_total_bytes)}` : ""}` : "";
  const limit = health.temperature_limit_c ? `, slows down at ${Math.round(health.temperature_limit_c)} °C` : "";
  const heat = heatWords(health);
  return [
    ["State", stateWords(device, now)],
    ["Device", `${device.device}${device.simulated ? ", simulated: it answers nobody, for planning and tests" : ""}`],
    ["Host", device.host],
    ["Pool", device.pool || "none"],
    ["Tier", tierWords(device.tier)],
    ["Engine", device.engine],
    ["Model", device.model],
    ["In memory", device.resident.join(", ")],
    ["Load", isDown(device) ? "" : streamsWords(device)],
    ["Speed", ratesWords(device)],
    ["Waiting for it", device.waiting ? String(device.waiting) : ""],
    ["Jobs it takes", device.general ? "" : "only those of its routes"],
    ["Routes", device.routes.join(", ")],
    ["Temperature", heat && `${heat}${limit}`],
    ["Memory", memory],
    ["Link", health.link ?? ""],
    ["Identity", health.identity ?? ""],
    ["Resets", health.resets ? String(health.resets) : ""],
    ["Last fault", device.last_fault && `${device.last_fault}${device.last_fault_at ? ` (${span(now - device.last_fault_at)} ago)` : ""}`],
    ["Failures in a row", device.failures ? String(device.failures) : ""],
    ["Quarantine", device.quarantined_until > now ? `until ${clockTime(device.quarantined_until)}` : ""],
    ["Decision", place ? `${place.reason} (${place.decided_by}${isMoving(device) ? ", not carried out yet" : ""})` : ""],
    ["Process", device.pid ? String(device.pid) : ""],
  ].filter(([, words]) => words);
}
