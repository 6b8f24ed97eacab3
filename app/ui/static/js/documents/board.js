// What the documents page knows besides documents and uploads: personas, the live line, words for a screen reader.
//
// Topics: "personas", "connection", "say", "uploads" (a card changed), "documents" (rows changed), "selection",
// "document" (a file's state changed: the event), "trouble" (a problem to show).

import { Bus } from "../bus.js";
import * as api from "../api.js";
import { Live } from "../live.js";

export const SHARED = "shared";
/** In place of a store: documents whose persona was deleted. */
export const NOBODY = "-";

export class Board extends Bus {
  constructor() {
    super();
    this.personas = [];
    this.live = new Live({ onEvent: (event) => this.emit(event.type, event), onState: (state) => this.#connection(state) });
  }

  async loadPersonas() {
    this.personas = await api.personas();
    this.emit("personas");
  }

  /** Whom these stores are for, in words. */
  storeWords(stores) {
    if (stores.includes(SHARED)) return "Shared with all";
    if (!stores.length) return "Nobody";
    const names = stores.map((store) => this.personas.find((persona) => persona.id === store)?.name ?? store);
    if (names.length <= 2) return names.join(" and ");
    return `${names[0]} and ${names.length - 1} more`;
  }

  #connection(state) {
    const back = (state === "open" || state === "sse") && this.wasLost;
    this.wasLost = state === "lost" || (this.wasLost && !back);
    this.emit("connection", state);
    if (back) this.emit("back");
  }
}

/** Call `action` at once, then at most once in `everyMs` however often it is asked for; the last asking is honoured. */
export function atMostEvery(everyMs, action) {
  let timer = null;
  let again = false;
  const run = () => {
    again = false;
    timer = setTimeout(() => {
      timer = null;
      if (again) run();
    }, everyMs);
    action();
  };
  return () => {
    if (timer) again = true;
    else run();
  };
}
