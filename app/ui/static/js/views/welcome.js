// Before the first word: the personas as cards that greet, or why there are none to be seen.

import { avatar, byId, h } from "../dom.js";

const TITLE = "Who would you like to talk to?";
const CARDS_WAITING = 4;

export function welcome(store) {
  if (!store.personas.length) return nobody(store);
  const chosen = store.current?.id;
  return h(
    "section",
    { class: "welcome" },
    h("h2", {}, TITLE),
    h("p", {}, document.body.dataset.whereabouts),
    h("div", { class: "cards", role: "group", "aria-label": "Personas to talk to" }, store.personas.map((persona) => card(store, persona, persona.id === chosen))),
  );
}

/** None is here: not yet, not just now, or really none. */
function nobody(store) {
  const { state, problem } = store.personasFetched;
  if (state === "loading") return waiting();
  const [title, words, label, action] =
    state === "failed"
      ? ["Your personas cannot be shown just now", `${problem.message} This page tries again by itself.`, "Try again", () => store.personasFetched.again()]
      : ["Nobody lives here yet", "A persona is who you talk to: a name, a manner, a model. Make the first one.", "Create a persona", () => byId("persona-new").click()];
  return h("section", { class: "welcome" }, h("h2", {}, title), h("p", {}, words), h("button", { type: "button", class: "button primary", onclick: action }, label));
}

/** Where the cards will stand, so that nothing jumps when they come. */
function waiting() {
  return h(
    "section",
    { class: "welcome", "aria-busy": "true" },
    h("h2", {}, TITLE),
    h("p", {}, "Asking the reef who is there…"),
    h("div", { class: "cards waiting", "aria-hidden": "true" }, Array.from({ length: CARDS_WAITING }, () => h("div", { class: "card" }))),
  );
}

function card(store, persona, chosen) {
  const choose = () => {
    store.newChat(persona.id);
    byId("composer-input").focus();
  };
  return h(
    "button",
    { type: "button", class: "card", "aria-pressed": String(chosen), onclick: choose, dataset: { personaId: persona.id } },
    avatar(persona, "large"),
    h("span", { class: "card-name" }, persona.name),
    h("span", { class: "card-description" }, persona.description),
    persona.greeting ? h("span", { class: "card-greeting" }, persona.greeting) : null,
  );
}
