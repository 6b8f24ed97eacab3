// The reef in a line of facts, how fresh they are, and faults said aloud.

import { byId, h } from "../dom.js";
import { clockTime, gatewayWords, inTrouble, isBusy, isDown, rate } from "./words.js";

const FRESH_MS = 4_000;
const BANNER_AFTER_MS = 900;
const ALOUD = new Set(["failed", "gone", "restarted", "fallback"]);
const SAID_WITHIN_MS = 1_500;
const NAMED_MAX = 3;

export class Head {
  constructor(board) {
    this.board = board;
    this.shown = "";
    board.on("change", () => this.#drawFacts());
    board.on("doors", () => board.reef && this.#drawFacts());
    board.on("fresh", () => this.#drawFreshness());
    board.on("connection", () => this.#drawBanner());
    board.on("outage", () => this.#drawBanner());
    board.on("device_changed", (event) => this.#fault(event));
  }

  #drawFacts() {
    const facts = factsOf(this.board);
    const shown = JSON.stringify(facts);
    if (shown === this.shown) return;
    this.shown = shown;
    byId("facts").replaceChildren(...facts.map(fact));
  }

  #drawFreshness() {
    const { board } = this;
    const { heardAt } = board;
    const fresh = heardAt && Date.now() - heardAt < FRESH_MS && board.connection !== "lost";
    const words = heardAt === 0 ? "Asking the reef…" : fresh ? `Live · version ${board.reef.version}` : `As it was at ${clockTime(board.at)}`;
    const place = byId("freshness");
    if (place.textContent !== words) place.textContent = words;
    document.body.classList.toggle("stale", heardAt !== 0 && !fresh);
  }

  #drawBanner() {
    clearTimeout(this.timer);
    const { board } = this;
    const lost = board.connection === "lost";
    const banner = byId("banner");
    if (!lost && !board.outage) {
      banner.hidden = true;
      return;
    }
    // a blink that mends itself needs no words
    this.timer = setTimeout(
      () => {
        const known = board.at ? ` Showing what was known at ${clockTime(board.at)}.` : "";
        banner.textContent = lost ? `Connection lost, trying again…${known}` : `${board.outage}${known}`;
        banner.hidden = false;
      },
      lost ? BANNER_AFTER_MS : 0,
    );
  }

  /** Faults are said, those of a moment in one sentence; that a device is back stands in its tile. */
  #fault({ change, node, message }) {
    if (!ALOUD.has(change)) return;
    this.faults ??= new Map();
    this.faults.set(node, message);
    this.saying ??= setTimeout(() => {
      const [nodes, messages] = [[...this.faults.keys()], [...this.faults.values()]];
      const words = nodes.length <= NAMED_MAX ? messages.join(" ") : `${nodes.length} devices failed: ${nodes.slice(0, NAMED_MAX).join(", ")} and others.`;
      this.faults.clear();
      this.saying = null;
      this.board.say(words, true);
    }, SAID_WITHIN_MS);
  }
}

function factsOf(board) {
  const { reef, devices, doors } = board;
  const all = [...devices.values()];
  const up = all.filter((device) => !isDown(device));
  const troubled = all.filter((device) => inTrouble(device, board.now)).length;
  const tokens = up.reduce((total, device) => total + device.tokens_per_s, 0);
  const inferences = up.reduce((total, device) => total + device.inferences_per_s, 0);
  const strategy = { dedicated: "Dedicated", dynamic: "Dynamic", pipeline: "Pipeline" }[reef.strategy];
  return [
    { term: "Devices", words: `${up.length} of ${all.length} serve`, aside: troubled ? `${troubled} in trouble` : `${up.filter(isBusy).length} busy`, trouble: up.length < all.length },
    { term: "Jobs", words: `${reef.runs.running} running`, aside: `${reef.runs.queued} waiting` },
    { term: "Given up", words: String(reef.runs.dead), aside: reef.runs.dead ? "Listed below" : "", trouble: reef.runs.dead > 0 },
    { term: "Speed", words: `${rate(tokens)} tokens/s`, aside: inferences ? `${rate(inferences)} inferences/s` : "" },
    { term: "Model", words: reef.model?.title || reef.model?.name || "none", aside: reef.model?.demo ? "Demo size: quick, often wrong" : "" },
    strategy && { term: "Strategy", words: strategy },
    { term: "Document index", words: { ok: "In order", down: "Down", off: "Not in use" }[reef.vectors] ?? reef.vectors, trouble: reef.vectors === "down" },
    { term: "Database", words: { sqlite: "SQLite", postgresql: "PostgreSQL" }[reef.database] ?? reef.database, aside: `Broker ${reef.broker === "ok" ? "in order" : "down"}` },
    { term: "Gateway", words: gatewayWords(doors.gateway), aside: doors.gateway && `${doors.sockets} open ${doors.sockets === 1 ? "socket" : "sockets"}`, trouble: doors.gateway === "down" },
    reef.grpc && grpcFact(reef.grpc, doors.gateway === "down"),
    reef.flower_url && { term: "Tasks", words: "Open Flower", href: reef.flower_url },
  ].filter(Boolean);
}

/** The gateway serves gRPC, and nobody else does when it is down. */
function grpcFact(address, down) {
  const colon = address.lastIndexOf(":");
  const [host, port] = [address.slice(0, colon), `Port ${address.slice(colon + 1)}`];
  return { term: "gRPC", words: down ? "Down" : port, aside: down ? port : host, trouble: down };
}

function fact({ term, words, aside = "", trouble = false, href = "" }) {
  const shown = href ? h("a", { href, target: "_blank", rel: "noopener" }, words) : words;
  return h("div", {}, h("dt", {}, term), h("dd", { class: trouble ? "trouble-words" : "" }, shown, h("span", { class: "aside" }, aside || "\u00a0")));
}
