// Make, change or delete a persona.

import * as api from "../api.js";
import { avatar, byId, h, iconButton } from "../dom.js";
import { confirm } from "./confirm.js";

const COLORS = { Coral: "#e8795f", Sand: "#d2a24c", Kelp: "#6fa84f", Lagoon: "#2fa39a", Deep: "#3d8bd4", Urchin: "#b96ad9", Shell: "#d96a94" };

const CHAT_FORMATS = new Set(["gguf", "remote", "simulated"]);

/** A model in the list of suggestions, beside its name. */
function modelWords(model) {
  const where = { READY: "in memory", CACHED: "on disk", LOADING: "being loaded", AVAILABLE: "can be fetched" }[model.state] ?? "";
  return [model.title === model.name ? "" : model.title, where].filter(Boolean).join(", ");
}

export class PersonaDialog {
  constructor(store) {
    this.store = store;
    this.dialog = byId("persona-dialog");
    // a browser lets "cancel" be prevented only now and then, the key always
    this.dialog.addEventListener("keydown", (event) => event.key === "Escape" && this.#leave(event));
    this.dialog.addEventListener("cancel", (event) => event.target === this.dialog && this.#leave(event));
  }

  async open(persona) {
    this.persona = persona;
    this.dialog.replaceChildren(this.#form());
    this.#preview();
    this.before = JSON.stringify(this.#values());
    this.dialog.showModal();
    this.form.elements.name.focus();
    const [models, known] = await Promise.all([api.models().catch(() => []), persona ? api.persona(persona.id).catch(() => null) : null]);
    const offered = models.filter((model) => CHAT_FORMATS.has(model.format) && model.state !== "FAILED");
    byId("persona-models")?.replaceChildren(...offered.map((model) => h("option", { value: model.name }, modelWords(model))));
    if (known && this.persona?.id === known.id) this.#warn(known.warnings);
  }

  #form() {
    const persona = this.persona ?? { name: "", avatar: "", color: COLORS.Lagoon, description: "", system_prompt: "", model: "", temperature: 0.7, greeting: "" };
    this.face = h("span");
    this.general = h("p", { class: "field-error", role: "alert", hidden: true });
    this.warnings = h("div", { class: "form-warnings", role: "status" });
    this.form = h(
      "form",
      { noValidate: true, onsubmit: (event) => this.#submit(event), oninput: () => this.#preview() },
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id: "persona-dialog-title" }, this.persona ? `Edit ${persona.name}` : "New persona"),
        iconButton("close", "Close", (event) => this.#leave(event)),
      ),
      h("div", { class: "fields" }, this.#fields(persona)),
      this.general,
      this.warnings,
      h(
        "div",
        { class: "dialog-actions" },
        this.persona ? h("button", { type: "button", class: "button danger apart", onclick: () => this.#delete() }, "Delete") : null,
        (this.closeButton = h("button", { type: "button", class: "button", onclick: (event) => this.#leave(event) }, "Cancel")),
        (this.submitButton = h("button", { type: "submit", class: "button primary" }, this.persona ? "Save" : "Create")),
      ),
    );
    return this.form;
  }

  #fields(persona) {
    const text = (name, extra = {}) => h("input", { type: "text", name, value: persona[name] ?? "", autocomplete: "off", ...extra });
    const area = (name, rows, extra = {}) => h("textarea", { name, rows, value: persona[name] ?? "", ...extra });
    this.temperature = h("output");
    return [
      this.#field("name", "Name", text("name", { required: true, maxLength: 80 })),
      this.#field("avatar", "Avatar", text("avatar", { maxLength: 16 }), { hint: "An emoji, or one or two letters.", face: true }),
      this.#colors(persona.color ?? ""),
      this.#field("description", "Description", text("description", { maxLength: 500 }), { wide: true, hint: "A line for the list: what this persona is good for." }),
      this.#field("system_prompt", "Instructions", area("system_prompt", 4, { maxLength: 16000 }), { wide: true, hint: "Who the persona is and how it speaks. The model reads this before every reply." }),
      this.#field("greeting", "Greeting", area("greeting", 2, { maxLength: 2000 }), { wide: true, hint: "How it opens a new chat. May be empty." }),
      this.#field("model", "Model", text("model", { list: "persona-models", placeholder: "As the reef is set up", maxLength: 200 })),
      h("datalist", { id: "persona-models" }),
      this.#field("temperature", "Temperature", h("input", { type: "range", name: "temperature", min: "0", max: "2", step: "0.05", value: String(persona.temperature ?? 0.7) }), { after: this.temperature, hint: "Low is steady, high is inventive." }),
    ];
  }

  #field(name, label, control, { wide = false, hint = "", face = false, after = null } = {}) {
    control.id = `persona-${name}`;
    const error = h("p", { class: "field-error", id: `${control.id}-error`, hidden: true });
    const hintBox = hint ? h("p", { class: "hint", id: `${control.id}-hint` }, hint) : null;
    control.setAttribute("aria-describedby", [hint && hintBox.id, error.id].filter(Boolean).join(" "));
    return h(
      "div",
      { class: `field${wide ? " wide" : ""}`, dataset: { field: name } },
      h("label", { htmlFor: control.id }, label, after ? " " : null, after),
      face ? h("div", { class: "face" }, this.face, control) : control,
      hintBox,
      error,
    );
  }

  #colors(chosen) {
    const known = Object.values(COLORS).includes(chosen.toLowerCase());
    const all = [...Object.entries(COLORS), ...(chosen && !known ? [["Its own", chosen]] : []), ["None", ""]];
    const swatches = all.map(([name, color]) =>
      h(
        "label",
        { class: `swatch${color ? "" : " none"}`, title: name, style: color ? { "--persona": color } : {} },
        h("input", { type: "radio", name: "color", value: color, checked: color.toLowerCase() === chosen.toLowerCase(), "aria-label": name }),
        h("span", { "aria-hidden": "true" }),
      ),
    );
    return h(
      "div",
      { class: "field wide", dataset: { field: "color" }, role: "radiogroup", "aria-labelledby": "persona-color-label" },
      h("span", { class: "label", id: "persona-color-label" }, "Colour"),
      h("div", { class: "swatches" }, swatches),
      h("p", { class: "field-error", hidden: true }),
    );
  }

  #values() {
    const data = new FormData(this.form);
    const values = Object.fromEntries(["name", "avatar", "color", "description", "system_prompt", "greeting", "model"].map((name) => [name, String(data.get(name) ?? "").trim()]));
    return { ...values, temperature: Number(data.get("temperature")) };
  }

  /** Close; what was typed is thrown away only when the person says so. */
  async #leave(event) {
    event.preventDefault();
    const changed = JSON.stringify(this.#values()) !== this.before;
    if (changed && !(await confirm({ title: "Discard your changes?", text: "What you typed here is not saved.", yes: "Discard" }))) return;
    this.dialog.close();
  }

  #preview() {
    const values = this.#values();
    const face = avatar(values);
    this.face.replaceWith(face);
    this.face = face;
    this.temperature.textContent = values.temperature.toFixed(2);
  }

  async #submit(event) {
    event.preventDefault();
    this.#showErrors({});
    const fields = this.#values();
    if (!fields.name) {
      this.#showErrors({ name: "A persona needs a name." });
      return;
    }
    this.submitButton.disabled = true;
    try {
      const saved = await this.store.savePersona(this.persona?.id, fields);
      if (!this.persona) this.store.newChat(saved.id);
      this.persona = saved;
      this.before = JSON.stringify(fields);
      // it is saved all the same: who has read this closes the form, or changes something
      if (saved.warnings.length) {
        this.#warn([`${saved.name} is saved.`, ...saved.warnings]);
        this.submitButton.textContent = "Save";
        this.closeButton.textContent = "Close";
        this.warnings.scrollIntoView({ block: "nearest" });
      } else {
        this.dialog.close();
        this.store.say(`${saved.name} is saved.`);
      }
    } catch (problem) {
      this.#showErrors(problem.errors ?? {}, problem.message);
    } finally {
      this.submitButton.disabled = false;
    }
  }

  #warn(sentences) {
    this.warnings.replaceChildren(...sentences.map((sentence) => h("p", {}, sentence)));
  }

  /** Each sentence at its field; what belongs to no field stands above the buttons. */
  #showErrors(errors, message = "") {
    let first = null;
    for (const field of this.form.querySelectorAll("[data-field]")) {
      const sentence = errors[field.dataset.field];
      const box = field.querySelector(".field-error");
      box.textContent = sentence ?? "";
      box.hidden = !sentence;
      for (const control of field.querySelectorAll("input, textarea")) {
        if (sentence) control.setAttribute("aria-invalid", "true");
        else control.removeAttribute("aria-invalid");
      }
      if (sentence) first ??= field.querySelector("input, textarea");
    }
    this.general.hidden = !message || Boolean(first);
    this.general.textContent = message;
    first?.focus();
  }

  async #delete() {
    const { persona } = this;
    const documents = await api.countDocuments(persona.id).catch(() => null);
    const agreed = await confirm({ title: `Delete ${persona.name}?`, text: endWords(documents), yes: `Delete ${persona.name}`, also: documents === 0 ? "" : "Delete the documents that only it reads, too" });
    if (!agreed) return;
    try {
      await this.store.deletePersona(persona.id, agreed.also ? "delete" : "keep");
      this.dialog.close();
      this.store.say(`${persona.name} is deleted.`);
    } catch (problem) {
      this.#showErrors({}, problem.message);
    }
  }
}

/** What a person should know before a persona goes. `documents` is null where they could not be counted. */
function endWords(documents) {
  const chats = "Its chats stay, but nobody answers in them any more. What it was told to remember is forgotten.";
  if (documents === 0) return chats;
  const which = documents === null ? "Documents that only it reads" : `It reads ${documents === 1 ? "1 document" : `${documents.toLocaleString("en")} documents`} besides the shared ones. Those that no other persona reads`;
  return `${chats} ${which} stay in the list, for nobody, until you assign or delete them.`;
}
