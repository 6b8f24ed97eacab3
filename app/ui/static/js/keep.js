// What this browser remembers: drafts, messages that are not sent yet, preferences. Storage may be full or forbidden;
// then nothing is remembered.

const DRAFTS_MAX = 50;
const UNSENT_MAX = 20;
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
    return true;
  } catch {
    // private windows and full disks: the page works, it only forgets
    return false;
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

/** Messages that were not accepted yet, oldest first: {idempotencyKey, text, personaId, sessionId, begun, at}. */
export const unsent = () => read("unsent", []);

export const isUnsent = (idempotencyKey) => unsent().some((message) => message.idempotencyKey === idempotencyKey);

/** The chats in which one waits. */
export const unsentSessions = () => new Set(unsent().map((message) => message.sessionId));

/** Keep such a message. Of too many the oldest becomes a draft of its chat. Answers whether this one is kept. */
export function keepUnsent(message) {
  const kept = [...unsent().filter((other) => other.idempotencyKey !== message.idempotencyKey), message];
  for (const old of kept.splice(0, Math.max(0, kept.length - UNSENT_MAX))) {
    const place = old.sessionId ?? NEW;
    keepDraft(place, [draft(place), old.text].filter(Boolean).join("\n"));
  }
  return write("unsent", kept);
}

export function forgetUnsent(idempotencyKey) {
  write("unsent", unsent().filter((message) => message.idempotencyKey !== idempotencyKey));
}

export const preference = (name, fallback) => read(name, fallback);
export const keepPreference = write;
