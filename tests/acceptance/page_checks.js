// Put into every page that the tests open: what a person saw of a reply in the making, and the accessibility checks.

(() => {
  const seen = { checkOpacity: true, checkVisibilityCSS: true };
  const inClosedDialog = (element) => element.closest("dialog:not([open])");
  const tell = (element) => element.outerHTML.slice(0, 160);

  // Every state of the reply in the making that a person could have seen, in order.
  window.streamed = [];
  addEventListener("DOMContentLoaded", () => {
    const thread = document.getElementById("thread");
    if (!thread) return;
    new MutationObserver(() => {
      const words = [...thread.querySelectorAll(".turn.assistant[data-run-id] .words.plain")].at(-1);
      if (!words) return;
      const text = [...words.children].map((part) => part.textContent).join("\n\n");
      if (text && text !== window.streamed.at(-1)) window.streamed.push(text);
    }).observe(thread, { childList: true, subtree: true, characterData: true });
  });

  function named(element) {
    const ids = (element.getAttribute("aria-labelledby") ?? "").split(" ");
    const labelled = ids.map((id) => document.getElementById(id)?.textContent ?? "").join("");
    const labels = [...(element.labels ?? [])].map((label) => label.textContent).join("");
    const words = [element.getAttribute("aria-label"), labelled, labels, element.textContent, element.alt];
    return words.some((text) => text?.trim());
  }

  // Roles that are heard without a name of their own.
  const unnamed = ["status", "alert", "rowgroup", "row", "cell"];

  // Controls and regions without an accessible name.
  function nameless() {
    const controls = "a[href], button, input:not([type=hidden]), textarea, select, dialog, [role]";
    return [...document.querySelectorAll(controls)]
      .filter((element) => !element.closest("[aria-hidden=true]") && !inClosedDialog(element))
      .filter((element) => !unnamed.includes(element.getAttribute("role")) && !named(element))
      .map(tell);
  }

  function headingLevels() {
    return [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
      .filter((heading) => heading.checkVisibility() && !heading.closest("dialog"))
      .map((heading) => Number(heading.getAttribute("aria-level") ?? heading.tagName[1]));
  }

  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });

  function pixel(color) {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }

  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);

  function ground(element) {
    const layers = [];
    for (let node = element; node; node = node.parentElement) layers.unshift(pixel(getComputedStyle(node).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  }

  function luminance(color) {
    const [r, g, b] = color.slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function ratio(one, two) {
    const [high, low] = [luminance(one), luminance(two)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  }

  // Visible texts below WCAG AA, from the colours the browser computed.
  function lowContrast() {
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
      const words = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
      if (!words || !element.checkVisibility(seen)) continue;
      if (element.closest(".visually-hidden, .skip-link, :disabled, noscript")) continue;
      const style = getComputedStyle(element);
      const below = ground(element);
      const value = ratio(over(pixel(style.color), below), below);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (value < (large ? 3 : 4.5)) found.push(`${value.toFixed(2)} ${tell(element)}`);
    }
    return found;
  }

  // Targets too small to touch (WCAG 2.2, 2.5.8: 24 by 24); a label is part of its control's target.
  function smallTargets() {
    return [...document.querySelectorAll("button, a[href], input")]
      .filter((element) => element.checkVisibility(seen) && !element.closest("dialog, .skip-link, .words p"))
      .filter((element) => {
        const box = (element.closest("label") ?? element).getBoundingClientRect();
        return Math.min(box.width, box.height) < 24;
      })
      .map(tell);
  }

  function doubledIds() {
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    return ids.filter((id, index) => ids.indexOf(id) !== index);
  }

  function focusShown() {
    const element = document.activeElement;
    const style = getComputedStyle(element.matches("#composer-input") ? element.parentElement : element);
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return outlined || style.boxShadow !== "none" ? "" : tell(element);
  }

  window.pageChecks = { nameless, headingLevels, lowContrast, smallTargets, doubledIds, focusShown };
})();
