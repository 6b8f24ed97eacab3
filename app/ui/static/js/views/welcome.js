// Before the first word: the personas as cards that greet.

import { avatar, byId, h } from "../dom.js";

export function welcome(store) {
  if (!store.personas.length) {
    return h(
      "section",
      { class: "welcome" },
      h("h2", {}, "Nobody lives here yet"),
      h("p", {}, "A persona is who you talk to: a name, a manner, a model. Make the first one."),
      h("button", { type: "button", class: "button primary", onclick: () => byId("persona-new").click() }, "Create a persona"),
    );
  }
  const chosen = store.current?.id;
  return h(
    "section",
    { class: "welcome" },
    h("h2", {}, "Who would you like to talk to?"),
    h("p", {}, document.body.dataset.whereabouts),
    h("div", { class: "cards", role: "group", "aria-label": "Personas to talk to" }, store.personas.map((persona) => card(store, persona, persona.id === chosen))),
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
