// Sentences and figures: how numbers, times and phases are told to a person.

export function seconds(value) {
  if (value < 1) return "under a second";
  if (value < 90) return `about ${Math.round(value)} s`;
  return `about ${Math.round(value / 60)} min`;
}

/** A time of the API: Unix seconds, or an ISO text. */
function moment(time) {
  return new Date(typeof time === "number" ? time * 1000 : time);
}

export function clock(when) {
  const time = moment(when);
  return Number.isNaN(time.getTime()) ? "" : time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

const DAY_MS = 24 * 3600 * 1000;

export function dayLabel(when, now = new Date()) {
  const time = moment(when);
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  if (time.getTime() >= midnight) return "Today";
  if (time.getTime() >= midnight - DAY_MS) return "Yesterday";
  if (time.getTime() >= midnight - 6 * DAY_MS) return "This week";
  return "Earlier";
}

/** What a reply does before its first word. */
export function phaseWords(run, name) {
  if (run.stopping) return "Stopping…";
  if (run.held) return run.held;
  if (run.phase === "waiting") {
    if (run.restarted) return "The device restarted; the answer begins again.";
    return queueWords(run);
  }
  const where = [run.device && `on ${run.device}`, run.model].filter(Boolean).join(" · ");
  const again = run.restarted ? "The device restarted; the answer begins again. " : "";
  return `${again}${name} is reading…${where ? ` · ${where}` : ""}`;
}

function queueWords(run) {
  if (run.position === null) return "Handing it over…";
  const wait = run.waitS === null ? "" : ` · ${seconds(run.waitS)}`;
  if (run.position <= 1) return `Next in the queue${wait}`;
  return `Place ${run.position} in the queue${wait}`;
}

/** The discreet line under a finished reply. */
export function figures(message, run) {
  const usage = message?.usage ?? run?.usage;
  const metrics = message?.metrics ?? run?.metrics;
  const parts = [];
  if (usage?.completion) parts.push(`${usage.completion} tokens`);
  if (metrics?.tokens_per_s) parts.push(`${metrics.tokens_per_s < 10 ? metrics.tokens_per_s.toFixed(1) : Math.round(metrics.tokens_per_s)} tokens/s`);
  if (metrics?.first_token_s) parts.push(`first word after ${metrics.first_token_s.toFixed(2)} s`);
  if (run?.device) parts.push(`on ${run.device}`);
  return parts.join(" · ");
}

/** A persona by name, or what became of it. */
export function personaName(persona, store) {
  return persona?.name ?? (store.personasFetched.state === "here" ? "Deleted persona" : "Persona");
}
