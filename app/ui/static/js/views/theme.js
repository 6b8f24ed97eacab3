// Light, dark, or as the system. A cookie keeps the choice, so that the server can write it into the page: no flash.

import { byId, icon } from "../dom.js";

const LABELS = { auto: "as the system", light: "light", dark: "dark" };
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const YEAR_S = 365 * 24 * 3600;

export function themeToggle() {
  const button = byId("theme-toggle");
  const root = document.documentElement;
  const draw = () => {
    const theme = root.dataset.theme;
    const label = `Theme: ${LABELS[theme]}. Change to ${LABELS[NEXT[theme]]}`;
    button.setAttribute("aria-label", label);
    button.title = label;
    button.replaceChildren(icon(`theme-${theme}`));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = NEXT[root.dataset.theme];
    document.cookie = `reef_theme=${root.dataset.theme}; path=/; max-age=${YEAR_S}; samesite=lax`;
    draw();
  });
  draw();
}
