// Arrow keys in a list: one row is in the tab order, the arrows move among them.

export function arrowKeys(container, selector) {
  const rows = () => [...container.querySelectorAll(selector)];

  container.addEventListener("keydown", (event) => {
    const all = rows();
    const at = all.indexOf(document.activeElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(all.length - 1, to))].focus();
  });

  container.addEventListener("focusin", (event) => {
    const row = event.target.closest(selector);
    if (row) reach(rows(), row);
  });

  /** After a redraw: the current row (or the first) is the one Tab reaches. */
  return () => {
    const all = rows();
    const current = all.find((row) => row === document.activeElement) ?? all.find((row) => row.hasAttribute("aria-current")) ?? all[0];
    reach(all, current);
  };
}

function reach(all, row) {
  for (const other of all) other.tabIndex = other === row ? 0 : -1;
}
