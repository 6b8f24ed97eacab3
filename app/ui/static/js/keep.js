// What this browser remembers: drafts, preferences. Storage may be full or forbidden; then nothing is remembered.

const DRAFTS_MAX = 50;
const PREFIX = "reef.";

/** Where the draft of a chat is kept that has no session yet. */
export const NEW = "new";

function read(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name)) ?? fallback;
  } catch {
    return fallback;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // private windows and full disks: the page works, it only forgets
  }
}

export function draft(place) {
  return read("drafts", {})[place] ?? "";
}

export function keepDraft(place, text) {
  const drafts = read("drafts", {});
  delete drafts[place];
  if (text) drafts[place] = text;
  const places = Object.keys(drafts);
  for (const old of places.slice(0, Math.max(0, places.length - DRAFTS_MAX))) delete drafts[old];
  write("drafts", drafts);
}

export const preference = (name, fallback) => read(name, fallback);
export const keepPreference = write;
