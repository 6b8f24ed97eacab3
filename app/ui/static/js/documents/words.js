// How sizes, states and rates of documents are told to a person.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** In powers of ten, as the command line says it. */
export function bytes(count) {
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)}\u00a0${UNITS[unit]}`;
}

export const number = (value) => value.toLocaleString("en");

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** How much of its way a document has gone, and what it does: [share, words]. */
const ON_ITS_WAY = {
  receiving: [0.05, "Receiving"],
  queued: [0.2, "Queued"],
  parsing: [0.4, "Reading"],
  embedding: [0.65, "Embedding"],
  indexing: [0.9, "Indexing"],
};
const SETTLED = { indexed: "Ready", failed: "Failed", cancelled: "Cancelled", replaced: "Replaced by a newer one" };

export const moving = (state) => state in ON_ITS_WAY;
export const settled = (state) => state in SETTLED;
export const stateWords = (state) => ON_ITS_WAY[state]?.[1] ?? SETTLED[state] ?? state;

/** Whether trying a document again may help: its failure is of a kind that may pass. */
export const mayPass = (document) => document.state === "failed" && document.retryable;

export function wayShare(document) {
  const [share] = ON_ITS_WAY[document.state] ?? [1];
  if (document.state === "embedding") return share + 0.25 * (document.embedded_share ?? 0);
  if (document.state !== "receiving" || !document.size_bytes) return share;
  return share + 0.15 * (document.received_bytes / document.size_bytes);
}

/** "reports/2024/a.pdf" → ["reports/2024", "a.pdf"]. */
export function splitName(name) {
  const at = name.lastIndexOf("/");
  return at < 0 ? ["", name] : [name.slice(0, at), name.slice(at + 1)];
}

export function pageWords(first, last) {
  if (first === null || first === undefined) return "";
  return last === null || last === undefined || last === first ? `Page ${first}` : `Pages ${first}–${last}`;
}

export function day(unixS) {
  const time = new Date(unixS * 1000);
  const today = new Date();
  if (time.toDateString() === today.toDateString()) return time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const year = time.getFullYear() === today.getFullYear() ? {} : { year: "numeric" };
  return time.toLocaleDateString("en", { day: "numeric", month: "short", ...year });
}

export const wholeDate = (unixS) => new Date(unixS * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });

export function left(seconds) {
  if (seconds < 60) return "less than a minute left";
  if (seconds < 5400) return `about ${plural(Math.round(seconds / 60), "minute")} left`;
  return `about ${plural(Math.round(seconds / 3600), "hour")} left`;
}

const ARCHIVE = /\.(zip|tar\.gz|tgz)$/i;

/** Whether a file of this name is unpacked rather than read. */
export const isArchive = (name) => ARCHIVE.test(name);
