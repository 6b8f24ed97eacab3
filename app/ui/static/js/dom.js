// Making elements. Text always goes in as text; the one place that takes HTML is `htmlFragment`, for the replies
// that the server has rendered and cleaned.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Props: `class`, `dataset`, `on<event>`, `style` (custom properties), properties and attributes. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (name in element && !name.startsWith("aria-") && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${document.body.dataset.icons}#${name}`);
  svg.append(use);
  return svg;
}

export function iconButton(name, label, onclick, extra = {}) {
  const { class: className = "", ...rest } = extra;
  return h(
    "button",
    { type: "button", class: `icon-button ${className}`, "aria-label": label, title: label, onclick, ...rest },
    icon(name),
  );
}

export const byId = (id) => document.getElementById(id);

/** Put `nodes` into `parent` in this order, moving as few as possible (focus and selection survive). */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.childNodes]) if (!wanted.has(child)) child.remove();
  let place = parent.firstChild;
  for (const node of nodes) {
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
}

/** A reply as the server rendered and cleaned it, made at home in the page. */
export function htmlFragment(html) {
  const template = document.createElement("template");
  // table cells are aligned by inline style, which the page's policy forbids; `<` never stands raw in the text
  template.innerHTML = html.replace(/(<t[dh]) style="text-align:(left|right|center)">/g, '$1 class="$2">');
  const fragment = template.content;
  for (const link of fragment.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const heading of fragment.querySelectorAll("h1,h2,h3,h4,h5,h6")) {
    heading.setAttribute("role", "heading");
    heading.setAttribute("aria-level", String(Math.min(6, Number(heading.tagName[1]) + 3)));
  }
  for (const table of fragment.querySelectorAll("table")) wrap(table, h("div", { class: "table-scroll", tabIndex: 0, role: "region", "aria-label": "Table" }));
  for (const pre of fragment.querySelectorAll("pre")) {
    const box = wrap(pre, h("div", { class: "code-block" }));
    pre.tabIndex = 0;
    box.append(iconButton("copy", "Copy code", (event) => copyWithTick(event.currentTarget, pre.textContent), { class: "small" }));
  }
  return fragment;
}

function wrap(element, box) {
  element.replaceWith(box);
  box.append(element);
  return box;
}

/** Copy text; on plain-http hosts, where browsers offer no clipboard API, through a selection. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = h("textarea", { class: "visually-hidden", value: text, readOnly: true });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

const TICK_MS = 1600;

export async function copyWithTick(button, text) {
  await copyText(text);
  const label = button.getAttribute("aria-label");
  button.replaceChildren(icon("check"));
  button.setAttribute("aria-label", "Copied");
  setTimeout(() => {
    button.replaceChildren(icon("copy"));
    button.setAttribute("aria-label", label);
  }, TICK_MS);
}

const drawn = new Map();
const DRAWN_MAX = 500;

/** Whether this browser has a picture for an emoji: drawn in black, a picture has colours and an empty box has none. */
function drawable(emoji) {
  if (!drawn.has(emoji) && drawn.size < DRAWN_MAX) {
    const canvas = h("canvas", { width: 24, height: 24 });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.font = `20px ${getComputedStyle(document.body).fontFamily}`;
    context.textBaseline = "top";
    context.fillText(emoji, 0, 2);
    const { data } = context.getImageData(0, 0, 24, 24);
    drawn.set(emoji, data.some((value, index) => index % 4 !== 3 && value > 0));
  }
  return drawn.get(emoji) ?? false;
}

/** The round face of a persona: an emoji or one or two letters on its colour. */
export function avatar(persona, size = "") {
  const initial = persona?.name?.trim().slice(0, 1).toUpperCase() || "·";
  const chosen = persona?.avatar?.trim() || initial;
  const emoji = /\p{Extended_Pictographic}/u.test(chosen) && drawable(chosen);
  const text = emoji || !/\p{Extended_Pictographic}/u.test(chosen) ? chosen : initial;
  const style = /^#[0-9a-f]{6}$/i.test(persona?.color ?? "") ? { "--persona": persona.color } : {};
  return h("span", { class: `avatar ${size} ${emoji ? "emoji" : ""}`, "aria-hidden": "true", style }, text);
}
