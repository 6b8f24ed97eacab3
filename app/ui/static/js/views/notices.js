// The banner of a lost connection and the words for screen readers.

import { byId } from "../dom.js";

const BANNER_AFTER_MS = 900;
const SAY_CHARS_MAX = 1200;

const LOST = "Connection lost, trying again… What you have stays, and the reply goes on when it is back.";

export function connectionBanner(store, words = LOST) {
  const banner = byId("banner");
  let timer = null;
  store.on("connection", (state) => {
    clearTimeout(timer);
    if (state === "lost") {
      // a blink that mends itself needs no words
      timer = setTimeout(() => {
        banner.textContent = words;
        banner.hidden = false;
      }, BANNER_AFTER_MS);
    } else banner.hidden = true;
  });
}

/** Whole sentences at the turns of a reply, never token by token. */
export function announcer(store) {
  store.on("say", ({ words, urgent }) => {
    const region = byId(urgent ? "announcer-urgent" : "announcer");
    const text = words.length > SAY_CHARS_MAX ? `${words.slice(0, SAY_CHARS_MAX)}…` : words;
    // the same sentence twice is only read again when the region was empty in between
    region.textContent = "";
    requestAnimationFrame(() => {
      region.textContent = text;
    });
  });
}
